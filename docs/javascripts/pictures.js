// A click on a picture opens it alone, so that it can be enlarged on a phone.
document.querySelectorAll(".md-content img").forEach((picture) => {
  picture.addEventListener("click", () => window.open(picture.src, "_self"));
});

"""Random valid files of time series and images, and how independent readers read them."""

import datetime
import io
import struct
import warnings

import numpy as np
from format_texts import columns_of, csv_rows, words

from seqjax.data import load_images, load_series

# Time series


def days(count):
    return [datetime.date(2023, 12, 27) + datetime.timedelta(days=i) for i in range(count)]


def make_series(draw, letters):
    names = {words(draw, letters, 1).strip("-.|;") or "a" for _ in range(2)}
    rows = [f"{day},{draw.choice(['', draw.randint(-9, 99) / 4, 7, '1e3', 'NA'])},{name}" for day in days(6) for name in sorted(names)]
    rows += [f"{day},{i},{name}" for i, name in enumerate(sorted(names)) for day in days(8)[6:]]
    return {"power.csv": "\n".join(["day,load,name", f"2023-12-26,5,{min(names)}", *rows]) + "\n"}


def make_wide_series(draw, letters):
    rows = [f"{day},{draw.choice(['', '?', draw.random()])},{draw.randint(0, 9)}" for day in days(8)]
    return {"power.csv": "\n".join(["day,left,right", "2023-12-26,1,2", *rows, "2024-01-04,3,4"]) + "\n"}


def load_power(**options):
    def load(paths, encoding):
        data = load_series(
            "file", path=paths["power.csv"], encoding=encoding, validation_steps=1, step="1D", gaps="missing", time_field="day", **options
        )
        part = data.parts["validation"]
        return [(n, tuple(map(str, t.astype("datetime64[s]"))), shown(v)) for n, t, v in zip(part["name"], part["time"], part["value"])]

    return load


def shown(values):
    return tuple("missing" if value != value else float(value) for value in values)


def as_number(text):
    missing = ("", "na", "n/a", "#n/a", "nan", "null", "none", "?", "-", ".")
    return float("nan") if text.strip().lower() in missing else float(text)


def on_days(found):
    """Series (name -> date -> value) with a value for each day from the first to the last."""
    series = []
    for name, values in found.items():
        first, last = min(values), max(values)
        every = [first + datetime.timedelta(days=i) for i in range((last - first).days + 1)]
        series.append((name, tuple(t.isoformat() for t in every), shown([values.get(day, float("nan")) for day in every])))
    return series


def as_time(text):
    text = text.strip()
    return datetime.datetime.strptime(text, "%Y-%m-%d" if len(text) <= 10 else "%Y-%m-%d %H:%M:%S")


def long_series(files):
    found = {}
    for day, value, name in columns_of(csv_rows(files["power.csv"], ","), "day", "load", "name"):
        assert found.setdefault(name.strip(), {}).setdefault(as_time(day), as_number(value)) is not None
    return on_days(found)


def wide_series(files):
    rows, found = csv_rows(files["power.csv"], ","), {}
    for name in ("left", "right"):
        values = {as_time(day): as_number(value) for day, value in columns_of(rows, "day", name)}
        there = [day for day, value in values.items() if value == value]
        found[name] = {day: value for day, value in values.items() if there[0] <= day <= there[-1]}
    return on_days(found)


# Images


def pictures(draw, number, shape=(8, 8, 3)):
    return np.random.default_rng(draw.randrange(2**32)).integers(0, 256, (number, *shape), np.uint8)


def class_numbers(draw, number):
    return [0, 1, 2] * 2 + [draw.randrange(3) for _ in range(number - 6)]


def load_pictures(name, **options):
    def load(paths, encoding):
        path = paths[name] if name in paths else next(iter(paths.values())).rsplit("/case/", 1)[0] + f"/case/{name}".rstrip("/")
        data, found = load_images("file", path=path, validation_fraction=0.2, **options), []
        for images in data.parts.values():
            pixels, labels = images.take(np.arange(len(images)))
            found += [(data.classes[label], image.tobytes()) for image, label in zip(pixels, labels)]
        return sorted(found)

    return load


def idx_bytes(values):
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def make_idx(draw, letters):
    number = draw.randint(6, 12)
    images, labels = pictures(draw, number, (3, 2)), np.array(class_numbers(draw, number), np.uint8)
    return {"train-images-idx3-ubyte": idx_bytes(images), "train-labels-idx1-ubyte": idx_bytes(labels)}


def idx_pictures(files):
    arrays = []
    for name, dimensions in (("train-images-idx3-ubyte", 3), ("train-labels-idx1-ubyte", 1)):
        zero, kind, found, *shape = struct.unpack_from(f">HBB{dimensions}I", files[name])
        assert (zero, kind, found) == (0, 8, dimensions)
        arrays.append(np.array(list(files[name][4 + 4 * dimensions :]), np.uint8).reshape(shape))
    return sorted((str(label), image.tobytes()) for image, label in zip(*arrays, strict=True))


def make_npz(draw, letters):
    number, file = draw.randint(6, 12), io.BytesIO()
    save = draw.choice([np.savez, np.savez_compressed])
    save(file, images=pictures(draw, number, (3, 2)), labels=np.array(class_numbers(draw, number)))
    return {"set.npz": file.getvalue()}


def npz_pictures(files):
    with np.load(io.BytesIO(files["set.npz"])) as arrays:
        labels = arrays["labels"].reshape(-1).tolist()
        return sorted((str(label), image.tobytes()) for label, image in zip(labels, arrays["images"], strict=True))


def encoded_picture(draw, pixels, form):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def make_folders(draw, letters):
    names = [f"{label}/{i}.{form}" for label in ("cat", "dog") for i, form in enumerate(("png", "jpg", "bmp", "png"))]
    forms = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP"}
    return {n: encoded_picture(draw, p, forms[n[-3:]]) for n, p in zip(names, pictures(draw, len(names)))}


def decoded(content):
    """The pixels of an image file that needs no scaling or colour conversion; None for one that does."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(content))
        image.load()
    return image.tobytes() if image.size == (8, 8) and image.mode == "RGB" and not image.getexif() else None


def by_label(found):
    """Pairs of a label and pixels in order, those without known pixels first."""
    return sorted(found, key=lambda pair: (pair[0], pair[1] or b""))


def folder_pictures(files):
    return by_label((name.split("/")[0], decoded(content)) for name, content in files.items())


def make_image_table(draw, letters):
    rows = [(f"{i}.png", draw.choice(["cat", "dog"]) if i > 3 else ("cat", "dog")[i % 2]) for i in range(6)]
    files = {name: encoded_picture(draw, p, "PNG") for (name, _), p in zip(rows, pictures(draw, len(rows)))}
    return {"train.csv": "\n".join(["path,label", *map(",".join, rows)]) + "\n"} | files


def table_pictures(files):
    rows = csv_rows(files["train.csv"], ",")
    others = [name for name in rows[0] if name != "path"]
    rows = columns_of(rows, "path", "label" if "label" in others or len(others) > 1 else others[0])
    return by_label((label.strip(), decoded(files[name] if name in files else files[f"{name}.png"])) for name, label in rows)


def make_pixel_table(draw, letters):
    number = draw.randint(6, 9)
    rows = zip(class_numbers(draw, number), pictures(draw, number, (25,)).tolist())
    head = ",".join(["label", *(f"pixel{i}" for i in range(25))])
    return {"train.csv": "\n".join([head, *(",".join(map(str, [label, *pixels])) for label, pixels in rows)]) + "\n"}


def pixel_pictures(files):
    rows = csv_rows(files["train.csv"], ",")[1:]
    assert {len(row) for row in rows} == {26}
    return sorted((str(int(label)), bytes(map(int, pixels))) for label, *pixels in rows)

"""What the tests of labelled texts share: files of rows, and what a loader made of them."""

import gzip
import json


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) > 20
    return message


def pairs(part):
    return list(zip(part["text"], part["label"].tolist()))


def named(found, part):
    return [(text, found.classes[label]) for text, label in pairs(found.parts[part])]


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def rows(number, classes=("ham", "spam"), start=0):
    return [{"text": f"message {n}", "label": classes[n % len(classes)]} for n in range(start, start + number)]


def writer(tmp_path):
    """write(name, data) -> the path of a file below tmp_path."""

    def write(name, data):
        data = data.encode("utf-8") if isinstance(data, str) else data
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(place)

    return write

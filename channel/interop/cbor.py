"""Deterministic CBOR (identity/SPEC.md section 2), as far as Fairway uses it."""


class Malformed(ValueError):
    """Bytes that are not what the specification says."""


class Tag18(list):
    """A COSE_Sign1: the four items of its array."""


def head(major, number):
    if number < 24:
        return bytes([major << 5 | number])
    for size, code in ((1, 24), (2, 25), (4, 26), (8, 27)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | code]) + number.to_bytes(size, "big")
    raise Malformed("a number of more than 64 bits")


def encode(value):
    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case Tag18():
            return head(6, 18) + encode(list(value))
        case list():
            return head(4, len(value)) + b"".join(map(encode, value))
        case dict():
            pairs = sorted((encode(key), encode(item)) for key, item in value.items())
            return head(5, len(pairs)) + b"".join(key + item for key, item in pairs)
    raise TypeError(type(value))


def decode(data):
    """The one item that `data` is. Refuses everything that `encode` would not write."""
    value, rest = item(data, 6)
    if rest:
        raise Malformed("bytes after the item")
    return value


def item(data, depth):
    if not data or depth == 0:
        raise Malformed("cut short, or too deep")
    major, low, data = data[0] >> 5, data[0] & 31, data[1:]
    if major == 7:
        if low not in (20, 21, 22):
            raise Malformed("a simple value other than false, true and null")
        return {20: False, 21: True, 22: None}[low], data
    number, data = argument(low, data)
    if major in (0, 1):
        return (number if major == 0 else -1 - number), data
    if major in (2, 3):
        if len(data) < number:
            raise Malformed("cut short")
        content, data = data[:number], data[number:]
        return (content if major == 2 else text(content)), data
    if major == 4:
        return items(data, number, depth)
    if major == 5:
        return pairs(data, number, depth)
    if number != 18:
        raise Malformed("a tag other than COSE_Sign1")
    value, data = item(data, depth)
    return Tag18(value), data


def argument(low, data):
    if low < 24:
        return low, data
    if low > 27:
        raise Malformed("an indefinite length")
    size = 1 << low - 24
    number = int.from_bytes(data[:size], "big")
    if len(data) < size or number < (24 if size == 1 else 1 << 4 * size):
        raise Malformed("cut short, or not the shortest form")
    return number, data[size:]


def text(content):
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Malformed("text that is not UTF-8") from error


def items(data, count, depth):
    values = []
    for _ in range(count):
        value, data = item(data, depth - 1)
        values.append(value)
    return values, data


def pairs(data, count, depth):
    values, last = {}, b""
    for _ in range(count):
        before = data
        key, data = item(data, depth - 1)
        encoded = before[:len(before) - len(data)]
        if encoded <= last:
            raise Malformed("keys out of order")
        last = encoded
        values[key], data = item(data, depth - 1)
    return values, data

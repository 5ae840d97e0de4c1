"""`python -m tests.contract.documents.write_golden`: write the document of each collection's present shape.

Each comes from the newest file of its collection, led up to the present version. Look at the difference.
"""

from __future__ import annotations

import orjson

from libs.common.store.shapes import upgraded
from tests.contract.documents.collections import file_of, golden, specs


def main() -> None:
    """Write what differs."""
    for spec in specs():
        schema = spec.schema
        versions = range(schema.oldest, schema.version + 1)
        newest = max(version for version in versions if file_of(spec, version).exists())
        body = upgraded(spec, "golden", golden(spec, newest), newest)
        assert schema.known is not None
        text = orjson.dumps(schema.known(body), option=orjson.OPT_INDENT_2) + b"\n"
        file = file_of(spec, schema.version)
        if not file.exists() or file.read_bytes() != text:
            file.write_bytes(text)
            print(file.name)


if __name__ == "__main__":
    main()

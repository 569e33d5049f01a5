"""No line of C has more than 130 columns: characters, not bytes."""

import sys
from pathlib import Path

LIMIT = 130

wide = 0
for path in sorted(
    [*Path("src_c").rglob("*.[ch]"), *Path("src_c").rglob("*.def"), *Path("tests/c").glob("*.c")]
):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if len(line) > LIMIT:
            print(f"{path}:{number}: {len(line)} columns, more than {LIMIT}")
            wide += 1
sys.exit(wide > 0)

"""Makes the list of common passwords out of zxcvbn's: ``python scripts/common_passwords.py``.

They are the most frequent ones of passwords that became known, and the words of English texts and films that
are long enough to be one (MIT; ``pip install zxcvbn``, which nothing else here needs). A line is a word in
lower case, sorted.
"""

from __future__ import annotations

import gzip
from pathlib import Path

from zxcvbn.frequency_lists import FREQUENCY_LISTS

OUT = Path(__file__).resolve().parents[1] / "store" / "accounts" / "common_passwords.txt.gz"
#: Shorter ones count where somebody only adds digits and punctuation to them.
N_MOST_FREQUENT, LONG = 10_000, 10


def main() -> None:
    """Write the list."""
    passwords = FREQUENCY_LISTS["passwords"]
    words = set(passwords[:N_MOST_FREQUENT])
    for listed in (passwords, FREQUENCY_LISTS["english_wikipedia"], FREQUENCY_LISTS["us_tv_and_film"]):
        words |= {word for word in listed if len(word) >= LONG}
    text = "".join(f"{word}\n" for word in sorted(words) if len(word) >= 4)
    OUT.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main()

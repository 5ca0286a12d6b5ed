"""The training pictures whose stated terms let anyone use what is trained on them, and the rule
that picks them.

    python tools/clean_set.py                 write docs/clean_set.csv and print counts and megapixels
    python tools/clean_set.py --look          also compare thumbnails with every picture of val, kodak and odd
    python tools/clean_set.py --model-card    print the passage on terms for a model card

The rule is `TERMS`: what the licence column of ../shared/data/SOURCES.csv says, word for word, and
whether such pictures are taken. Terms that it does not name stop the program, so that no picture
gets in by being new.

- Taken: the public domain, the Unsplash and Pexels licences, CC BY, CC BY-SA, and permissive
  licences of the repository that a picture lies in.
- Attribution (CC BY, MIT, BSD, Apache) is given by the list itself: it names the source and the
  place of every picture.
- Share-alike (CC BY-SA) is taken because it binds who passes on a picture or an adaptation of it,
  and the weights hold neither; commercial use is allowed. The list keeps the class, so that whoever
  reads these licences otherwise can train without it: `--without share-alike`.
- Left out as unclear on sharing: the GNU licences (GPL, LGPL, AGPL, GFDL), also where they are one
  of two possible terms of a picture. What they ask of weights that have seen a picture is not
  settled.
- Left out: non-commercial and research terms, and terms that are not stated or not found.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared/data"
LIST = ROOT / "docs/clean_set.csv"
FOLDERS = ("train", "train2")
HELD_OUT = ("val", "kodak", "odd")
"""Never trained on, whatever their terms."""
COLUMNS = ("picture", "class", "terms", "source", "original path")
LIKE = 0.95
"""Correlation of normalised thumbnails from which two pictures are the same one; README.md of the
data uses it, too."""

TAKEN = {
    "public domain": "CC0 and other pictures in the public domain",
    "unsplash-pexels": "Unsplash and Pexels licences: free use, commercial too, no attribution asked",
    "attribution": "CC BY: commercial use with attribution",
    "share-alike": "CC BY-SA, alone or among free terms by picture: commercial use; "
    "adaptations of a picture stay under the same terms",
    "permissive": "MIT, BSD, 0BSD or Apache licence of the repository, taken at its word for its pictures, too",
}
LEFT_OUT = {
    "copyleft": "GNU licences, which leave unclear what weights owe",
    "non-commercial": "non-commercial use or research only",
    "unstated": "no terms stated for the pictures, or not found",
}
CLASSES = TAKEN | LEFT_OUT
TERMS = {
    "CC0": "public domain",
    "CC0 1.0": "public domain",
    "CC0 from Pexels per README": "public domain",
    "BSD-3 repository, CC0 photos": "public domain",
    "GPL-2 theme, photos CC0": "public domain",
    "public domain (US Department of Agriculture, per package)": "public domain",
    "public domain per README (AGPL-3 repository)": "public domain",
    "Unsplash licence": "unsplash-pexels",
    "Unsplash licence (ATTRIBUTION.md there)": "unsplash-pexels",
    "Unsplash licence (db/seeds/images/LICENSE.md there)": "unsplash-pexels",
    "Unsplash licence (CLIC 2025)": "unsplash-pexels",
    "Unsplash / Pexels licence": "unsplash-pexels",
    "Pexels licence / CC0": "unsplash-pexels",
    "MIT, photos from Unsplash": "unsplash-pexels",
    "MIT repository, photos from Unsplash per its content": "unsplash-pexels",
    "Apache-2.0 repository, photo from Unsplash per README": "unsplash-pexels",
    "Apache-2.0 (Jetsnack/ASSETS_LICENSE there), photos from Unsplash per README": "unsplash-pexels",
    "CC BY": "attribution",
    "CC BY 4.0": "attribution",
    "Apache-2.0 / CC BY per image": "attribution",
    "CC BY-SA 3.0": "share-alike",
    "CC BY-SA 4.0": "share-alike",
    "CID22: CC BY-SA 4.0": "share-alike",
    "see repository (CC BY-SA 4.0)": "share-alike",
    "CC BY / CC BY-SA / CC0 (debian/copyright)": "share-alike",
    "Unsplash (public domain per README) / CC BY-SA 4.0": "share-alike",
    "per image CC0/CC BY/CC BY-SA/Unsplash (debian/copyright)": "share-alike",
    "0BSD": "permissive",
    "MIT": "permissive",
    "MIT repository": "permissive",
    "MIT, photos mostly Unsplash": "permissive",
    "BSD-2": "permissive",
    "BSD-2 repository": "permissive",
    "Apache-2.0": "permissive",
    "Apache-2.0 repository": "permissive",
    "AGPL-3 repository": "copyleft",
    "AGPL-3 repository, test assets": "copyleft",
    "CC BY-SA 4.0 / LGPL-3": "copyleft",
    "GFDL (per package)": "copyleft",
    "GPL-2 / CC BY 4.0": "copyleft",
    "GPL-2+ / CC BY-SA 4.0 (debian/copyright)": "copyleft",
    "GPL-3 / CC BY-SA per image": "copyleft",
    "GPL-3 repository": "copyleft",
    "LGPL-2.1 repository": "copyleft",
    "ImageNet: non-commercial research": "non-commercial",
    "MIT repository; FFHQ: CC BY-NC-SA 4.0": "non-commercial",
    "Urban100/Sun-Hays80: research use, no licence stated": "non-commercial",
    "copyright Pierre Moulon, data set for research": "non-commercial",
    "research use": "non-commercial",
    "see repository (CC BY-NC 4.0)": "non-commercial",
    "GPL-3 / commercial repository, terms of the pictures not stated": "unstated",
    "MIT repository, photographs by its author, terms of the pictures not stated": "unstated",
    "metadata test images, no licence stated": "unstated",
    "no licence stated": "unstated",
    "photos mostly Unsplash, licence file not found": "unstated",
    "sample images, no licence stated": "unstated",
    "see repository LICENSE": "unstated",
    "stock photos, no licence stated": "unstated",
}


@dataclass(frozen=True)
class Listed:
    """A row of the list: `picture` is `FOLDER/SHARD.tar:NAME`, `kind` a class of `CLASSES`, `terms`
    what the source says."""

    picture: str
    kind: str
    terms: str
    source: str
    original_path: str

    @property
    def taken(self) -> bool:
        return self.kind in TAKEN


def class_of(terms: str) -> str:
    """The class of terms as SOURCES.csv has them; ValueError for any that the rule does not
    name."""
    if terms not in TERMS:
        raise ValueError(
            f"the rule does not name the terms {terms!r}; add them to TERMS of tools/clean_set.py"
        )
    return TERMS[terms]


def sources(data: Path) -> Iterator[Listed]:
    """Every row of SOURCES.csv."""
    with (data / "SOURCES.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield Listed(
                row["file"],
                class_of(row["license"]),
                row["license"],
                row["source"],
                row["original path"],
            )


def training_rows(data: Path) -> list[Listed]:
    """Rows of the training folders, without pictures that are held out under another name."""
    rows = list(sources(data))
    held_out = {
        (row.source, row.original_path) for row in rows if row.picture.split("/")[0] in HELD_OUT
    }
    return [
        row
        for row in rows
        if row.picture.split("/")[0] in FOLDERS and (row.source, row.original_path) not in held_out
    ]


def clean_rows(data: Path) -> list[Listed]:
    """What the rule takes, in the order of SOURCES.csv."""
    return [row for row in training_rows(data) if row.taken]


def write_list(rows: list[Listed], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(
            (row.picture, row.kind, row.terms, row.source, row.original_path) for row in rows
        )


def read_list(path: Path = LIST) -> list[Listed]:
    """The committed list."""
    with path.open(newline="") as file:
        return [Listed(*(row[column] for column in COLUMNS)) for row in csv.DictReader(file)]


def members(data: Path, pictures: set[str]) -> Iterator[tuple[str, bytes]]:
    """Name as in the list and bytes of every picture that is in `pictures`, shard by shard."""
    for shard in sorted({picture.split(":")[0] for picture in pictures}):
        with tarfile.open(data / shard) as file:
            for member in file:
                name = f"{shard}:{member.name}"
                if name in pictures:
                    yield name, file.extractfile(member).read()


def megapixels(data: Path, rows: list[Listed]) -> dict[str, float]:
    """Megapixels of each picture, from the headers of its file."""
    found = {}
    for name, content in members(data, {row.picture for row in rows}):
        with Image.open(io.BytesIO(content)) as image:
            found[name] = image.width * image.height / 1e6
    return found


def thumbnail(image: Image.Image) -> np.ndarray:
    """The picture as 32 x 32 colours of mean 0 and length 1 together, float32. In grey, two halves
    of one colour each look like a photograph of a horizon."""
    values = np.asarray(
        image.convert("RGB").resize((32, 32), Image.Resampling.BOX), np.float32
    ).reshape(-1)
    values -= values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)


def likeness(data: Path, rows: list[Listed]) -> list[tuple[float, str, str]]:
    """For every picture that is held out its most similar one of the list: correlation and both
    names, the most similar first."""
    names, thumbnails = [], []
    for name, content in members(data, {row.picture for row in rows}):
        with Image.open(io.BytesIO(content)) as image:
            names.append(name)
            thumbnails.append(thumbnail(image))
    known, found = np.stack(thumbnails), []
    for folder in HELD_OUT:
        for path in sorted((data / folder).rglob("*")):
            try:
                with Image.open(path) as image:
                    correlation = known @ thumbnail(image)
            except (
                OSError,
                ValueError,
                SyntaxError,
                IsADirectoryError,
                Image.DecompressionBombError,
            ):
                # odd/ holds broken files and files of other formats on purpose.
                continue
            best = int(correlation.argmax())
            found.append((float(correlation[best]), str(path.relative_to(data)), names[best]))
    return sorted(found, reverse=True)


def summary(rows: list[Listed], areas: dict[str, float]) -> dict[str, tuple[int, float]]:
    """Pictures and megapixels of each class."""
    totals: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for row in rows:
        count, area = totals[row.kind]
        totals[row.kind] = (count + 1, area + areas.get(row.picture, 0.0))
    return dict(totals)


def model_card(rows: list[Listed], totals: dict[str, tuple[int, float]]) -> str:
    """What a model card says of the pictures and their terms, in Markdown."""
    area = sum(part for _, part in totals.values())
    lines = [
        f"{len(rows)} photographs, {area:.0f} megapixels, from public repositories whose stated",
        "terms allow commercial use. docs/clean_set.csv names each with its source and terms;",
        "tools/clean_set.py is the rule that picked them. No picture of the Kodak set, of the",
        "validation set or of the test files is among them.",
        "",
        "| terms | pictures | megapixels |",
        "|---|--:|--:|",
        *(
            f"| {TAKEN[kind]} | {totals[kind][0]} | {totals[kind][1]:.0f} |"
            for kind in TAKEN
            if kind in totals
        ),
        "",
        "Left out were " + "; ".join(LEFT_OUT.values()) + ".",
        "The terms are those that the repositories state; a repository's licence may not cover every",
        "picture in it, and nobody has asked the authors.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, help="folder with SOURCES.csv, train and train2"
    )
    parser.add_argument("--out", type=Path, default=LIST)
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=list(TAKEN),
        help="a class to leave out as well",
    )
    parser.add_argument(
        "--look",
        action="store_true",
        help="compare thumbnails with those of the pictures that are held out",
    )
    parser.add_argument(
        "--model-card",
        action="store_true",
        help="print the passage for a model card and write nothing",
    )
    arguments = parser.parse_args()
    everything = training_rows(arguments.data)
    rows = [row for row in clean_rows(arguments.data) if row.kind not in arguments.without]
    if arguments.model_card:
        print(model_card(rows, summary(rows, megapixels(arguments.data, rows))))
        return
    areas = megapixels(arguments.data, everything)
    totals = summary(everything, areas)
    for kind, text in CLASSES.items():
        count, area = totals.get(kind, (0, 0.0))
        taken = kind in TAKEN and kind not in arguments.without
        print(
            f"{'taken' if taken else 'left out':8}  {kind:16} {count:5} pictures {area:7.1f} megapixels  {text}"
        )
    print(
        f"in all {len(rows)} of {len(everything)} pictures, "
        f"{sum(areas[row.picture] for row in rows):.1f} of {sum(areas.values()):.1f} megapixels"
    )
    if arguments.look:
        found = likeness(arguments.data, rows)
        print(f"{len(found)} pictures that are held out were compared; the most similar ones:")
        for correlation, held_out, picture in found[:8]:
            print(f"  {correlation:.3f} {held_out} {picture}")
        if found[0][0] > LIKE:
            sys.exit("a picture that is held out is in the list")
    write_list(rows, arguments.out)


if __name__ == "__main__":
    main()

"""Writes the articles of the support example: python make_knowledge.py knowledge.parquet (needs pyarrow)."""

import sys

import pyarrow
import pyarrow.parquet

ARTICLES = [
    ("kettle", "A kettle that does not switch off needs its lid closed until it clicks."),
    ("kettle", "Limescale goes with half a litre of vinegar, boiled once and left for an hour."),
    ("kettle", "Kettles are for water alone."),
    ("lamp", "Lamps take an E14 bulb of at most 40 watts."),
    ("lamp", "A light that flickers when it is warm has a loose bulb."),
    ("backpack", "A stuck zip runs again with a little candle wax."),
    ("backpack", "Backpacks keep off rain for an hour and are not waterproof."),
]

products, articles = zip(*ARTICLES)
table = pyarrow.table({"product": products, "article": articles})
pyarrow.parquet.write_table(table, sys.argv[1])

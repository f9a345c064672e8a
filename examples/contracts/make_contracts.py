"""Writes twelve small contracts as PDF files, the same ones each time. Needs nothing but Python.

    python3 examples/contracts/make_contracts.py FOLDER
"""

import random
import sys
import textwrap
from datetime import date, timedelta
from pathlib import Path

PAGE = (595, 842)
LINES_PER_PAGE = 48
CHARACTERS_PER_LINE = 88

FIRMS = [
    "Albrecht & Söhne GmbH", "Brightwater Ltd.", "Café Molière SARL", "Delta Marine A/S", "Elm Street Bakery LLC",
    "Fjord Analytics AS", "Granada Tiles S.L.", "Hollis & Park LLP", "Ibis Air Cargo Inc.", "Jansen Bloemen B.V.",
    "Kestrel Robotics plc", "Lindqvist Möbler AB", "Meridian Freight Co.", "Novak s.r.o.",
]
PEOPLE = [
    "Anna Weiß", "Bram de Vries", "Chloé Martin", "Daniel Okafor", "Elena García", "Frida Sjögren", "George Palmer",
    "Hannah Lee",
]
KINDS = {
    "Supply Agreement": "The Supplier delivers {thing} to the Customer each month, free of charges for carriage.",
    "Service Agreement": "The Provider maintains the Client's {thing} and answers each report within two working days.",
    "Lease": "The Lessor lets {thing} to the Lessee, who uses it for the purposes of its business alone.",
    "Licence": "The Licensor grants the Licensee the right to use {thing}, which cannot be passed on to others.",
}
THINGS = {
    "Supply Agreement": ["40 pallets of roasted coffee", "1,200 m² of floor tiles", "six tonnes of wheat flour"],
    "Service Agreement": ["warehouse robots", "refrigerated containers", "booking website"],
    "Lease": ["the premises at Harbour Road 14", "a printing press of type KX-9", "two delivery vans"],
    "Licence": ["the route planner \"Tern\"", "the recipes of its spring menu", "a library of 3,000 photographs"],
}
ROLES = {
    "Supply Agreement": ("Supplier", "Customer"),
    "Service Agreement": ("Provider", "Client"),
    "Lease": ("Lessor", "Lessee"),
    "Licence": ("Licensor", "Licensee"),
}
CLAUSES = [
    ("Confidentiality", "Each party keeps secret what it learns of the other's business, during the term and for {years} "
     "years after its end. This does not apply to what is public or what a court orders to be disclosed."),
    ("Liability", "Neither party is liable for indirect losses. The liability of each party is limited to {cap} for "
     "each year of the term, save for intent and for injury to persons."),
    ("Termination", "Either party may terminate this contract with {notice} days' notice to the end of a month. If a "
     "payment is more than 30 days late, the other party may terminate it at once."),
    ("Force Majeure", "A party is not in default while events beyond its control, such as floods, strikes or a failure "
     "of public networks, keep it from performing. It tells the other party of them without delay."),
    ("Assignment", "Rights under this contract are assigned with the written consent of the other party only."),
    ("Data Protection", "Personal data are processed as the law requires, and are deleted within {notice} days after "
     "the end of the term."),
    ("Insurance", "The {second} keeps an insurance of at least {cap} against damage to goods of the other party, and "
     "shows the policy on request."),
    ("Notices", "Notices are in writing and are sent to the addresses of the parties as they are in the public "
     "register."),
    ("Entire Agreement", "This contract replaces all earlier agreements about its subject. Changes to it need the "
     "written form, and so does a waiver of that form."),
    ("Governing Law", "This contract is governed by the law of the country in which the {first} has its seat. The courts "
     "there have jurisdiction."),
]


def money(random, low, high):
    return f"{random.choice(['€', '£', '$'])}{random.randrange(low, high, 250):,}.00"


def contract(random, number):
    """The title and the paragraphs of a contract."""
    kind = list(KINDS)[number % len(KINDS)]
    first, second = random.sample(FIRMS, 2)
    first_role, second_role = ROLES[kind]
    signed = date(2021, 1, 4) + timedelta(days=random.randrange(1500))
    begins = signed + timedelta(days=random.randrange(5, 60))
    ends = begins + timedelta(days=365 * random.randrange(1, 5))
    values = {
        "first": first_role, "second": second_role, "years": random.randrange(2, 6),
        "notice": random.choice([30, 60, 90]), "cap": money(random, 50_000, 900_000),
        "thing": random.choice(THINGS[kind]),
    }
    paragraphs = [
        f"Contract No. {2021 + number % 4}-{random.randrange(1000, 9999)}",
        f"between {first} (the \"{first_role}\") and {second} (the \"{second_role}\"), signed on "
        f"{signed:%d %B %Y}.",
        "1. Subject",
        KINDS[kind].format(**values),
        "2. Term",
        f"This contract begins on {begins:%d %B %Y} and ends on {ends:%d %B %Y}.",
        "3. Price",
        f"The {second_role} pays {money(random, 1_000, 40_000)} a month to the {first_role}, due on the first day of "
        f"the month, and a deposit of {money(random, 5_000, 60_000)} on signature.",
    ]
    clauses = random.sample(CLAUSES, [2, 6, 9][number % 3])
    for position, (title, text) in enumerate(clauses, start=4):
        paragraphs += [f"{position}. {title}", text.format(**values)]
    if number % 3 == 2:
        paragraphs.append("Schedule of additional payments")
        for month in range(1, 25):
            due = begins + timedelta(days=30 * month)
            paragraphs.append(f"{month}. {money(random, 500, 9_000)}, due on {due:%d %B %Y}")
    signers = random.sample(PEOPLE, 2)
    paragraphs.append(f"Signed for the {first_role}: {signers[0]}. Signed for the {second_role}: {signers[1]}.")
    return f"{kind} {number + 1}", paragraphs


def pages_of(title, paragraphs):
    """Lines of text, page by page; each is a font, a size and a text."""
    lines = [("F2", 16, title), None]
    for paragraph in paragraphs:
        font = "F2" if paragraph[0].isdigit() and "," not in paragraph and len(paragraph) < 30 else "F1"
        lines += [(font, 10, line) for line in textwrap.wrap(paragraph, CHARACTERS_PER_LINE)] + [None]
    return [lines[at:at + LINES_PER_PAGE] for at in range(0, len(lines), LINES_PER_PAGE)]


def content_of(lines, number, of):
    """The operators that draw a page."""
    parts = ["BT", "15 TL", "60 780 Td"]
    for line in lines:
        if line:
            font, size, text = line
            text = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
            parts.append(f"/{font} {size} Tf ({text}) Tj")
        parts.append("T*")
    parts += ["ET", "BT", f"/F1 8 Tf 270 30 Td (Page {number} of {of}) Tj", "ET"]
    return "\n".join(parts).encode("cp1252", errors="strict")


def pdf_of(title, pages):
    """The bytes of a file."""
    fonts = "/F1 3 0 R /F2 4 0 R"
    kids = [5 + 2 * index for index in range(len(pages))]
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{' '.join(f'{kid} 0 R' for kid in kids)}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold /Encoding /WinAnsiEncoding >>",
    ]
    for index, lines in enumerate(pages):
        content = content_of(lines, index + 1, len(pages))
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {PAGE[0]} {PAGE[1]}] /Contents {kids[index] + 1} 0 R "
            f"/Resources << /Font << {fonts} >> >> >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    file = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    xref = len(file)
    file += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    file += b"".join(b"%010d 00000 n \n" % place for place in places)
    file += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, xref)
    return bytes(file)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(20240612)
    for number in range(12):
        title, paragraphs = contract(source, number)
        name = f"{number + 1:02}-{title.rsplit(' ', 1)[0].lower().replace(' ', '-')}.pdf"
        (folder / name).write_bytes(pdf_of(title, pages_of(title, paragraphs)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))

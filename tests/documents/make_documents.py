"""Writes the PDF files beside this script, with fpdf2, reportlab, matplotlib, cairocffi and pikepdf.

    python3 tests/documents/make_documents.py FONT.ttf

FONT.ttf is DejaVu Sans, parts of which are embedded.
"""

import sys
from pathlib import Path

import cairocffi
import matplotlib
import pikepdf
from fpdf import FPDF
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen import canvas
from reportlab.platypus import Paragraph, SimpleDocTemplate, Table
from reportlab.lib.styles import getSampleStyleSheet

HERE = Path(__file__).parent
FONT = sys.argv[1]

# Several scripts, with an embedded TrueType font; two pages.
pdf = FPDF()
pdf.add_font("dejavu", fname=FONT)
pdf.set_font("dejavu", size=12)
for lines in (["Ünïcödé façade, 1 234,50 €", "Ελληνικά κείμενα", "Русский текст"], ["Tiếng Việt", "ქართული"]):
    pdf.add_page()
    for line in lines:
        pdf.cell(text=line, new_x="LMARGIN", new_y="NEXT")
pdf.output(HERE / "scripts.pdf")

# Flowing paragraphs and a table, with a standard font.
styles = getSampleStyleSheet()
SimpleDocTemplate(str(HERE / "report.pdf"), pagesize=A4, invariant=1).build([
    Paragraph("Quarterly report", styles["Title"]),
    Paragraph("The first paragraph is long enough to be broken into two lines of the page, which it is here, "
              "after some twenty words.", styles["BodyText"]),
    Table([["Region", "Revenue"], ["North", "1,200"], ["South", "950"]]),
])

# Turned text, text that only programs see, and a page without text.
page = canvas.Canvas(str(HERE / "turned.pdf"), pagesize=A4, invariant=1)
page.saveState()
page.rotate(90)
page.drawString(100, -100, "Turned by ninety degrees")
page.restoreState()
hidden = page.beginText(100, 500)
hidden.setTextRenderMode(3)
hidden.textLine("Recognized in a scan")
page.drawText(hidden)
page.showPage()
page.rect(100, 100, 200, 200)
page.showPage()
page.save()

# Fonts that are made of drawings (Type 3).
matplotlib.use("pdf")
from matplotlib import pyplot  # noqa: E402
pyplot.figure(figsize=(4, 2)).text(0.1, 0.5, "Figure of 2024: plus 12 %")
pyplot.savefig(HERE / "figure.pdf", metadata={"CreationDate": None})

# Cairo's own subset of a font.
surface = cairocffi.PDFSurface(str(HERE / "cairo.pdf"), 300, 200)
drawing = cairocffi.Context(surface)
drawing.select_font_face("DejaVu Sans")
drawing.set_font_size(14)
for at, line in enumerate(["Drawn by Cairo", "on two lines"]):
    drawing.move_to(20, 40 + 20 * at)
    drawing.show_text(line)
surface.finish()

# The report again: in object streams, with a password, and with none but encrypted.
with pikepdf.open(HERE / "report.pdf") as report:
    streams = pikepdf.ObjectStreamMode.generate
    report.save(HERE / "streams.pdf", object_stream_mode=streams, deterministic_id=True)
    for name, password in (("password.pdf", "secret"), ("encrypted.pdf", "")):
        report.save(HERE / name, encryption=pikepdf.Encryption(owner="owner", user=password, R=6))

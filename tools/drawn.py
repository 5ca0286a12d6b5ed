"""Pictures that are no photographs, made from nothing: text, terminals, diagrams, plots, user interfaces, pixel art, dithering, maps.

Each is a function of a random generator; `made(seed)` gives them all by name, `(H, W, 3)` uint8. Photographs, where a picture holds
one, are given. Used by tools/content.py and tests/test_content.py.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WORDS = (
    "compress picture quality latent vector code table stream decoder photograph window theory while never between return import "
    "for in of the and with from integer exact machine float prior synthesis lattice group level channel bits header chunk (see 4.2), "
    "2024-05-12 {key: value} [0, 1] x = y + 3; if not done: break -> 12.5% #42 https://example.org/a/b?c=d"
).split()
INK = [(230, 80, 70), (90, 200, 90), (220, 190, 60), (80, 140, 230), (200, 110, 210), (70, 200, 210), (220, 220, 220)]


def _sentence(chance: np.random.Generator, letters: int) -> str:
    line = ""
    while len(line) < letters:
        line += str(chance.choice(WORDS)) + " "
    return line[:letters]


def text_page(chance: np.random.Generator, size: tuple[int, int] = (800, 1000), points: int = 12, paper=(255, 255, 255), ink=(0, 0, 0)) -> Image.Image:
    """Black on white, a margin, a headline, paragraphs."""
    image = Image.new("RGB", size, paper)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(points)
    draw.text((60, 40), _sentence(chance, 30), ink, ImageFont.load_default(2 * points))
    y = 40 + 4 * points
    while y < size[1] - 60:
        if chance.random() < 0.1:
            y += points
        draw.text((60, y), _sentence(chance, int((size[0] - 120) / (0.55 * points))), ink, font)
        y += round(1.4 * points)
    return image


def bilevel_page(chance: np.random.Generator) -> Image.Image:
    """A page as a fax or a scanner in line-art mode gives it."""
    return text_page(chance, (1200, 1600), 22).convert("L").point(lambda value: 255 * (value > 140)).convert("RGB")


def terminal(chance: np.random.Generator, size: tuple[int, int] = (1000, 640)) -> Image.Image:
    image = Image.new("RGB", size, (24, 26, 30))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    draw.rectangle((0, 0, size[0], 24), (52, 54, 60))
    for y in range(30, size[1] - 16, 18):
        x = 8.0
        for _ in range(chance.integers(1, 12)):
            word = str(chance.choice(WORDS))
            draw.text((x, y), word, INK[chance.integers(len(INK))], font)
            x += font.getlength(word + " ")
    return image


def code_editor(chance: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (1280, 800), (255, 255, 255))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    draw.rectangle((0, 0, 220, 800), (243, 243, 243))
    draw.rectangle((0, 776, 1280, 800), (0, 122, 204))
    dark = [tuple(value // 2 for value in colour) for colour in INK]
    for line in range(44):
        draw.text((12, 6 + 17 * line), _sentence(chance, int(chance.integers(5, 24))), (90, 90, 90), font)
        draw.text((232, 6 + 17 * line), f"{line:4}", (150, 150, 150), font)
        x = 280 + 28.0 * chance.integers(0, 5)
        for _ in range(chance.integers(0, 10)):
            word = str(chance.choice(WORDS))
            draw.text((x, 6 + 17 * line), word, dark[chance.integers(len(dark))], font)
            x += font.getlength(word + " ")
    return image


def subpixel_text(chance: np.random.Generator) -> Image.Image:
    """Text whose edges are coloured, as some systems smooth it for the stripes of a screen."""
    grey = np.asarray(text_page(chance, (700, 500), 13).resize((2100, 500), Image.Resampling.BILINEAR).convert("L"))
    return Image.fromarray(np.ascontiguousarray(grey.reshape(500, 700, 3)))


def diagram(chance: np.random.Generator, smooth: int = 2) -> Image.Image:
    """Boxes, arrows and labels; lines are smoothed where `smooth` is above 1."""
    width, height = 1000, 700
    image = Image.new("RGB", (width * smooth, height * smooth), (255, 255, 255))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15 * smooth)
    places = [(int(chance.integers(20, width - 180)), int(chance.integers(20, height - 90))) for _ in range(14)]
    for (x0, y0), (x1, y1) in zip(places[:-1], places[1:], strict=True):
        draw.line([smooth * (x0 + 70), smooth * (y0 + 30), smooth * (x1 + 70), smooth * (y1 + 30)], (60, 60, 60), 2 * smooth)
    for x, y in places:
        box = [smooth * x, smooth * y, smooth * (x + 140), smooth * (y + 60)]
        draw.rounded_rectangle(box, 8 * smooth, tuple(int(value) for value in chance.integers(150, 255, 3)), (40, 40, 40), 2 * smooth)
        draw.text((smooth * (x + 10), smooth * (y + 20)), _sentence(chance, 14), (0, 0, 0), font)
    return image.resize((width, height), Image.Resampling.BOX)


def plot(chance: np.random.Generator, kind: str) -> Image.Image:
    """A plot of matplotlib: lines, bars, dots or a heat map of smooth values."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5), dpi=110)
    x = np.linspace(0, 10, 200)
    if kind == "lines":
        for index in range(5):
            axes.plot(x, np.sin(x + index) + chance.normal(0, 0.1, len(x)), label=f"series {index}")
        axes.legend()
        axes.grid(True)
    elif kind == "bars":
        axes.bar(range(12), chance.random(12), color="tab:orange")
    elif kind == "dots":
        axes.scatter(chance.normal(size=600), chance.normal(size=600), s=12, alpha=0.6, c=chance.random(600))
    else:
        axes.imshow(np.add.outer(np.sin(x / 2), np.cos(x)), cmap="viridis", interpolation="bicubic")
    axes.set_xlabel("bits per pixel")
    axes.set_ylabel("dB")
    axes.set_title(_sentence(chance, 30))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return Image.open(buffer).convert("RGB")


def interface(chance: np.random.Generator, photograph: Image.Image | None = None, share: float = 0.4) -> Image.Image:
    """A window with gradients, shadows, buttons and text; with a photograph on so large a share of it if one is given."""
    width, height = 1200, 800
    ramp = np.linspace((236, 240, 246), (208, 216, 230), height)[:, None].repeat(width, 1)
    image = Image.fromarray(np.rint(ramp).astype(np.uint8))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    bar = np.linspace((70, 110, 180), (40, 70, 130), 48)[:, None].repeat(width, 1)
    image.paste(Image.fromarray(np.rint(bar).astype(np.uint8)), (0, 0))
    for index in range(6):
        draw.text((20 + 150 * index, 16), _sentence(chance, 10), (255, 255, 255), font)
    for column in range(3):
        left, top = 30 + 390 * column, 80
        shadow = Image.new("L", (380, 680))
        ImageDraw.Draw(shadow).rounded_rectangle((10, 10, 370, 660), 12, 110)
        image.paste((90, 100, 120), (left - 10, top - 6), shadow.filter(ImageFilter.GaussianBlur(6)))
        draw.rounded_rectangle((left, top, left + 360, top + 650), 12, (255, 255, 255))
        draw.text((left + 20, top + 16), _sentence(chance, 20), (20, 20, 20), ImageFont.load_default(20))
        for line in range(26):
            draw.text((left + 20, top + 56 + 20 * line), _sentence(chance, int(chance.integers(20, 42))), (70, 70, 80), font)
        draw.rounded_rectangle((left + 20, top + 596, left + 140, top + 630), 8, (50, 120, 220))
        draw.text((left + 40, top + 604), _sentence(chance, 8), (255, 255, 255), font)
    if photograph is not None:
        wide = round(width * share**0.5)
        tall = round(height * share**0.5)
        image.paste(photograph.convert("RGB").resize((wide, tall), Image.Resampling.LANCZOS), (width - wide, height - tall))
    return image


def pixel_art(chance: np.random.Generator, scale: int = 6) -> Image.Image:
    """Sprites of few colours on a tiled ground, enlarged without smoothing."""
    palette = chance.integers(0, 256, (16, 3)).astype(np.uint8)
    tile = chance.integers(0, 4, (3, 16, 16))
    grid = tile[chance.integers(0, 3, (8, 12))].transpose(0, 2, 1, 3).reshape(128, 192)
    for _ in range(20):
        y, x = chance.integers(0, 112), chance.integers(0, 176)
        half = chance.integers(4, 16, (16, 8))
        sprite = np.concatenate([half, half[:, ::-1]], 1)
        mask = chance.random((16, 8)) < 0.7
        grid[y : y + 16, x : x + 16] = np.where(np.concatenate([mask, mask[:, ::-1]], 1), sprite, grid[y : y + 16, x : x + 16])
    return Image.fromarray(palette[grid]).resize((192 * scale, 128 * scale), Image.Resampling.NEAREST)


def cartoon(chance: np.random.Generator) -> Image.Image:
    """Flat shapes with smoothed edges and outlines."""
    image = Image.new("RGB", (2400, 1600), tuple(int(value) for value in chance.integers(120, 255, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, r = (int(value) for value in (chance.integers(0, 2400), chance.integers(0, 1600), chance.integers(40, 300)))
        colour = tuple(int(value) for value in chance.integers(0, 255, 3))
        if chance.random() < 0.5:
            draw.ellipse((x - r, y - r, x + r, y + r), colour, (20, 20, 20), 6)
        else:
            points = [(x + int(chance.integers(-r, r)), y + int(chance.integers(-r, r))) for _ in range(5)]
            draw.polygon(points, colour, (20, 20, 20), 6)
    return image.resize((800, 533), Image.Resampling.LANCZOS)


def street_map(chance: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (2000, 1400), (242, 239, 233))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = chance.integers(0, 2000), chance.integers(0, 1400)
        points = [(int(x + chance.normal(0, 160)), int(y + chance.normal(0, 160))) for _ in range(6)]
        draw.polygon(points, [(170, 211, 223), (205, 235, 176), (224, 223, 223)][chance.integers(3)])
    for _ in range(70):
        ends = [tuple(int(value) for value in chance.integers(-100, 2100, 2)) for _ in range(2)]
        wide = int(chance.choice([4, 8, 14]))
        draw.line(ends, (180, 170, 160), wide + 4)
        draw.line(ends, [(255, 255, 255), (252, 214, 164), (249, 178, 156)][chance.integers(3)], wide)
    image = image.resize((1000, 700), Image.Resampling.BOX)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    for _ in range(40):
        draw.text(tuple(chance.integers(0, 700, 2)), _sentence(chance, 12), (60, 60, 60), font)
    return image


def dithered(photograph: Image.Image, colours: int) -> Image.Image:
    """A photograph in few colours with error diffusion, as an old GIF has it."""
    if colours == 2:
        return photograph.convert("1").convert("RGB")
    return photograph.convert("RGB").quantize(colours, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB")


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def made(seed: int, photograph: Image.Image) -> dict[str, np.ndarray]:
    """Pictures of all kinds by name, `(H, W, 3)` uint8; other ones for each seed. `photograph` is for those that hold one."""
    chance = np.random.default_rng(seed)
    pictures = {
        "text page": text_page(chance), "text page, large": text_page(chance, (1700, 2200), 24), "text, small": text_page(chance, (400, 260), 10),
        "text, light on dark": text_page(chance, (900, 600), 14, (18, 18, 18), (225, 225, 225)),
        "text, on coloured paper": text_page(chance, (900, 600), 13, (250, 240, 210), (60, 40, 20)),
        "text, subpixels": subpixel_text(chance), "page in black and white": bilevel_page(chance), "terminal": terminal(chance),
        "code editor": code_editor(chance), "diagram": diagram(chance), "diagram, hard lines": diagram(chance, 1),
        "plot of lines": plot(chance, "lines"), "plot of bars": plot(chance, "bars"), "plot of dots": plot(chance, "dots"),
        "plot of a smooth map": plot(chance, "map"), "window": interface(chance), "window, 20% photograph": interface(chance, photograph, 0.2),
        "window, 50% photograph": interface(chance, photograph, 0.5), "pixel art": pixel_art(chance), "pixel art, as drawn": pixel_art(chance, 1),
        "flat shapes": cartoon(chance), "street map": street_map(chance), "photograph in 16 colours": dithered(photograph, 16),
        "photograph in black and white": dithered(photograph, 2), "photograph in 256 colours": dithered(photograph, 256),
        "text page, JPEG 90": as_jpeg(text_page(chance), 90), "window, JPEG 90": as_jpeg(interface(chance), 90),
        "terminal, JPEG 75": as_jpeg(terminal(chance), 75),
    }  # fmt: skip
    return {name: np.ascontiguousarray(np.asarray(image.convert("RGB"))) for name, image in pictures.items()}

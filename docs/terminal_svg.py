#!/usr/bin/env python3
"""Turns a screen with colours (tmux capture-pane -p -e) on standard input into SVG."""
import re
import sys
from html import escape

COLOURS = ["#000000", "#cc4444", "#4e9a06", "#c4a000", "#3465a4", "#75507b", "#06989a", "#d3d7cf", "#555753"]
WIDTH, HEIGHT, TEXT, GROUND = 8.4, 18, "#e6e6e6", "#1c1f24"


class Style:
    def __init__(self):
        self.reset()

    def reset(self):
        self.fg, self.bg, self.bold, self.reverse, self.dim = None, None, False, False, False

    def apply(self, codes):
        codes = [int(code or 0) for code in codes.split(";")]
        while codes:
            code = codes.pop(0)
            if code == 0:
                self.reset()
            elif code == 1:
                self.bold = True
            elif code == 2:
                self.dim = True
            elif code == 7:
                self.reverse = True
            elif code in (38, 48) and codes[:1] == [5]:
                index = codes[1]
                codes = codes[2:]
                colour = COLOURS[index] if index < len(COLOURS) else TEXT
                if code == 38:
                    self.fg = colour
                else:
                    self.bg = colour
            elif 30 <= code <= 37:
                self.fg = COLOURS[code - 30]
            elif 40 <= code <= 47:
                self.bg = COLOURS[code - 40]
            elif code == 90:
                self.fg = COLOURS[8]
            elif code == 100:
                self.bg = COLOURS[8]
            elif code == 39:
                self.fg = None
            elif code == 49:
                self.bg = None

    def colours(self):
        fg, bg = self.fg or TEXT, self.bg
        return (bg or GROUND, fg) if self.reverse else (fg, bg)


def main():
    lines = sys.stdin.read().rstrip("\n").split("\n")
    columns = max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines)
    width, height = columns * WIDTH + 24, len(lines) * HEIGHT + 24
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
          f'font-family="DejaVu Sans Mono, monospace" font-size="14" xml:space="preserve">')
    print(f'<rect width="100%" height="100%" rx="8" fill="{GROUND}"/>')
    for row, line in enumerate(lines):
        style, column, y = Style(), 0, 26 + row * HEIGHT
        for part in re.split(r"(\x1b\[[0-9;]*m)", line):
            if part.startswith("\x1b"):
                style.apply(part[2:-1])
                continue
            if not part:
                continue
            fg, bg = style.colours()
            x = 12 + column * WIDTH
            if bg:
                print(f'<rect x="{x:.1f}" y="{y - 14}" width="{len(part) * WIDTH:.1f}" height="{HEIGHT}" fill="{bg}"/>')
            if part.strip():
                weight = ' font-weight="bold"' if style.bold else ""
                opacity = ' opacity="0.6"' if style.dim else ""
                print(f'<text x="{x:.1f}" y="{y}" fill="{fg}"{weight}{opacity} textLength="{len(part) * WIDTH:.1f}" '
                      f'lengthAdjust="spacingAndGlyphs">{escape(part)}</text>')
            column += len(part)
    print("</svg>")


main()

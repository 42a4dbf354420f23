//! Small grey images as text.

use std::fmt::Write;

/// An image: rows of grey values, 0 (background) to 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Picture {
    width: usize,
    pixels: Vec<f32>,
}

impl Picture {
    /// From row-major values of any range; a constant image is all background.
    pub(crate) fn new(width: usize, values: &[f32]) -> Picture {
        let (lo, hi) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
        let range = if hi > lo { hi - lo } else { 1.0 };
        let grey = |v: &f32| ((v - lo) / range).clamp(0.0, 1.0);
        Picture { width: width.max(1), pixels: values.iter().map(grey).collect() }
    }

    fn height(&self) -> usize {
        self.pixels.len() / self.width
    }

    /// Twice as wide and high, smoothed between the pixels.
    pub(crate) fn doubled(&self) -> Picture {
        let (w, h) = (self.width, self.height());
        let at = |y: usize, x: usize| self.pixels[y.min(h - 1) * w + x.min(w - 1)];
        let mut pixels = Vec::with_capacity(4 * w * h);
        for y in 0..2 * h {
            for x in 0..2 * w {
                // Pixel centres lie a quarter of an old pixel off the old centres.
                let mix = |i: usize| if i % 2 == 1 { (i / 2, i / 2 + 1) } else { (i / 2, (i / 2).saturating_sub(1)) };
                let ((y0, y1), (x0, x1)) = (mix(y), mix(x));
                let near = 0.75 * at(y0, x0) + 0.25 * at(y0, x1);
                let far = 0.75 * at(y1, x0) + 0.25 * at(y1, x1);
                pixels.push(0.75 * near + 0.25 * far);
            }
        }
        Picture { width: 2 * w, pixels }
    }

    /// Lines of half-block characters, two pixel rows a line; with `colour`, in shades of grey (ANSI), else in black
    /// and white.
    pub(crate) fn lines(&self, colour: bool) -> Vec<String> {
        let pixel = |y: usize, x: usize| self.pixels.get(y * self.width + x).copied().unwrap_or(0.0);
        let line = |y: usize| {
            let mut out = String::new();
            for x in 0..self.width {
                let (top, bottom) = (pixel(y, x), pixel(y + 1, x));
                if colour {
                    // 232..=255 are the terminal's 24 greys; writing to a String cannot fail.
                    let grey = |v: f32| 232 + (v * 23.0).round() as u8;
                    let _ = write!(out, "\x1b[38;5;{};48;5;{}m▀", grey(top), grey(bottom));
                } else {
                    out.push(match (top > 0.45, bottom > 0.45) {
                        (true, true) => '█',
                        (true, false) => '▀',
                        (false, true) => '▄',
                        (false, false) => ' ',
                    });
                }
            }
            if colour {
                out.push_str("\x1b[0m");
            }
            out
        };
        (0..self.height()).step_by(2).map(line).collect()
    }

    /// Columns it takes.
    pub(crate) fn columns(&self) -> usize {
        self.width
    }
}

/// Pictures side by side, each over its caption.
pub(crate) fn gallery(pictures: &[(Picture, String)], colour: bool) -> Vec<String> {
    let drawn: Vec<Vec<String>> = pictures.iter().map(|(p, _)| p.lines(colour)).collect();
    let widths: Vec<usize> = pictures.iter().map(|(p, c)| p.columns().max(c.chars().count())).collect();
    let height = drawn.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = vec![];
    for row in 0..height {
        let mut line = String::new();
        for ((lines, w), (p, _)) in drawn.iter().zip(&widths).zip(pictures) {
            let text = lines.get(row).cloned().unwrap_or_else(|| " ".repeat(p.columns()));
            line += &format!("  {text}{}", " ".repeat(w - p.columns()));
        }
        out.push(line.trim_end_matches(' ').to_string());
    }
    let caption: String = pictures.iter().zip(&widths).map(|((_, c), w)| format!("  {c:<w$}")).collect();
    out.push(caption.trim_end().to_string());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pixel_rows_a_line() {
        let p = Picture::new(2, &[9.0, 0.0, 9.0, 9.0]);
        assert_eq!(p.lines(false), ["█▄"]);
        assert_eq!(Picture::new(2, &[5.0; 4]).lines(false), ["  "]);
    }

    #[test]
    fn doubling_keeps_the_corners_and_smooths() {
        let p = Picture::new(2, &[0.0, 1.0, 0.0, 1.0]).doubled();
        assert_eq!(p.width, 4);
        assert_eq!(p.pixels[..4], [0.0, 0.25, 0.75, 1.0]);
    }

    #[test]
    fn captions_stand_under_their_pictures() {
        let p = Picture::new(2, &[1.0, 0.0, 0.0, 1.0]);
        let lines = gallery(&[(p.clone(), "one".into()), (p, "two".into())], false);
        assert_eq!(lines, ["  ▀▄   ▀▄", "  one  two"]);
    }
}

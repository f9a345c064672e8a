//! The lowest lines of a terminal, as indicatif draws them, made to survive a resize.
//!
//! indicatif fills each line up to the width and lets the terminal wrap it. To a terminal that reflows (tmux and most
//! others) that is one long paragraph, which takes another number of rows after a resize. Here lines end with line
//! breaks, and what was drawn is erased by the number of rows that it takes now.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use console::{Term, measure_text_width};
use indicatif::TermLike;

/// The lowest lines of a terminal. Clones are the same terminal.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    term: Term,
    block: Arc<Mutex<Block>>,
}

impl Screen {
    /// Returns standard error, or `None` if it is not a terminal that can move its cursor.
    pub(super) fn stderr() -> Option<Self> {
        let term = Term::stderr();
        let is_dumb = std::env::var_os("TERM").is_none_or(|kind| kind == "dumb");
        (term.is_term() && !is_dumb).then(|| Screen { term, block: Arc::default() })
    }

    fn block<T>(&self, change: impl FnOnce(&mut Block) -> T) -> T {
        change(&mut self.block.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The lines on the screen, and the output that will change them.
#[derive(Debug, Default)]
struct Block {
    /// Widths of the lines on the screen, in columns.
    widths: Vec<usize>,
    /// Whether `out` erases the lines on the screen.
    is_erased: bool,
    out: String,
}

impl Block {
    /// Erases the lines, which take more than one row each if the terminal has become narrower.
    fn erase(&mut self, columns: usize) {
        if self.is_erased {
            return;
        }
        self.is_erased = true;
        let rows: usize = self.widths.drain(..).map(|width| width.div_ceil(columns.max(1)).max(1)).sum();
        if rows > 0 {
            self.out.push('\r');
        }
        if rows > 1 {
            self.out.push_str(&format!("\x1b[{}A", rows - 1));
        }
        if rows > 0 {
            self.out.push_str("\x1b[J");
        }
    }

    /// Adds a line. Text of spaces only is none: indicatif fills lines with it.
    fn add(&mut self, text: &str) {
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        if !self.widths.is_empty() {
            self.out.push('\n');
        }
        self.out.push_str(text);
        self.widths.push(measure_text_width(text));
    }

    fn take(&mut self) -> String {
        self.is_erased = false;
        std::mem::take(&mut self.out)
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        self.term.size().1
    }

    fn height(&self) -> u16 {
        self.term.size().0
    }

    // indicatif begins each drawing with this call.
    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        let columns = usize::from(self.width());
        self.block(|block| block.erase(columns));
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.block(|block| block.add(text));
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let out = self.block(Block::take);
        // The terminal may be gone, which is not an error.
        let _ = io::stderr().lock().write_all(out.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(block: &mut Block, columns: usize, lines: &[&str]) -> String {
        block.erase(columns);
        for line in lines {
            block.add(line);
            block.add(&" ".repeat(columns - line.len()));
        }
        block.take()
    }

    #[test]
    fn lines_are_erased_by_the_rows_that_they_take_after_a_resize() {
        let mut block = Block::default();
        assert_eq!(
            draw(&mut block, 40, &["first", "second line of thirty letters"]),
            "first\nsecond line of thirty letters"
        );
        // 29 letters take three rows of ten columns; the first line takes one more.
        assert_eq!(draw(&mut block, 10, &["narrow"]), "\r\x1b[3A\x1b[Jnarrow");
        assert_eq!(draw(&mut block, 90, &["a", "b", "c"]), "\r\x1b[Ja\nb\nc");
        assert_eq!(draw(&mut block, 90, &[]), "\r\x1b[2A\x1b[J");
        assert_eq!(draw(&mut block, 90, &["again"]), "again");
    }
}

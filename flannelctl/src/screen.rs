//! Output for the operator: lines, tables and progress. Colour and rewritten lines are used only on a terminal.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Instant;

/// The output.
pub struct Screen {
    out: Box<dyn Write>,
    terminal: bool,
    started: Instant,
}

impl Screen {
    /// Writes to `out`. With `terminal` it uses colour, and progress rewrites its line.
    pub fn new(out: Box<dyn Write>, terminal: bool) -> Self {
        Self { out, terminal, started: Instant::now() }
    }

    /// Shows what is being done. On a terminal the next output replaces the line.
    pub fn progress(&mut self, what: impl Display) -> io::Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        if self.terminal {
            write!(self.out, "\r\x1b[K\x1b[2m[{seconds:5.1} s] {what} …\x1b[0m")?;
        } else {
            writeln!(self.out, "[{seconds:5.1} s] {what}")?;
        }
        self.out.flush()
    }

    /// Writes a heading.
    pub fn title(&mut self, text: impl Display) -> io::Result<()> {
        self.clear()?;
        let (bold, plain) = self.style("\x1b[1m");
        writeln!(self.out, "\n{bold}{text}{plain}")
    }

    /// Writes a line of text.
    pub fn line(&mut self, text: impl Display) -> io::Result<()> {
        self.clear()?;
        writeln!(self.out, "{text}")
    }

    /// Writes a line in the colour of success or failure.
    pub fn verdict(&mut self, good: bool, text: impl Display) -> io::Result<()> {
        self.clear()?;
        let (colour, plain) = self.style(if good { "\x1b[32m" } else { "\x1b[31m" });
        writeln!(self.out, "{colour}{text}{plain}")
    }

    /// Writes a table, indented by two spaces.
    pub fn table<const N: usize>(&mut self, head: [&str; N], rows: &[[String; N]]) -> io::Result<()> {
        self.clear()?;
        let lines = align(head, rows);
        let (dim, plain) = self.style("\x1b[2m");
        for (number, line) in lines.iter().enumerate() {
            let (before, after) = if number == 0 { (dim, plain) } else { ("", "") };
            writeln!(self.out, "  {before}{line}{after}")?;
        }
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        if self.terminal { write!(self.out, "\r\x1b[K") } else { Ok(()) }
    }

    fn style(&self, code: &'static str) -> (&'static str, &'static str) {
        if self.terminal { (code, "\x1b[0m") } else { ("", "") }
    }
}

/// Columns as wide as their widest cell, two spaces between them, no spaces at the end.
pub fn align<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(head.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["host1".to_owned(), "10.0.0.1".to_owned()], ["a".to_owned(), String::new()]];
        assert_eq!(align(["host", "ip"], &rows), ["host   ip", "host1  10.0.0.1", "a"]);
    }

    #[test]
    fn nothing_but_text_off_a_terminal() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut screen = Screen::new(Box::new(path.reopen().unwrap()), false);
        screen.progress("work").unwrap();
        screen.title("done").unwrap();
        screen.verdict(true, "0 lost").unwrap();
        screen.table(["a"], &[["b".to_owned()]]).unwrap();
        let text = std::fs::read_to_string(path.path()).unwrap();
        assert!(!text.contains(['\x1b', '\r']), "{text:?}");
        assert!(text.ends_with("\ndone\n0 lost\n  a\n  b\n"), "{text:?}");
    }
}

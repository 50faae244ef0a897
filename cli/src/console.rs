//! Where output goes.

use std::io::{self, Write};

/// What was asked for goes to `out`, what is said beside it to `err`, so that
/// `TICKET=$(kubectl fairway ticket pump-7)` holds the ticket and nothing else.
pub struct Console<'a> {
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// Whether a person looks at `err`.
    pub terminal: bool,
}

/// A table with columns as wide as their widest cell.
#[derive(Default)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self(vec![
            headings
                .iter()
                .map(|heading| (*heading).to_owned())
                .collect(),
        ])
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.into());
    }

    /// Writes the table, each line after `indent`.
    pub fn write(&self, indent: &str, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, n: usize| row.get(n).map_or(0, |cell| cell.chars().count());
        let widths: Vec<usize> = (0..columns)
            .map(|n| self.0.iter().map(|row| cell(row, n)).max().unwrap_or(0))
            .collect();
        for row in &self.0 {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(out, "{indent}{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(["a-long-name".into(), "1".into()]);
        table.row(["b".into(), String::new()]);
        let mut out = Vec::new();
        table.write("  ", &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "  NAME         N\n  a-long-name  1\n  b\n"
        );
    }
}

//! An answer for people: rows as an aligned table, fields as `name: value` lines, tables among them below; text as it is.
//!
//! What came over the network never reaches the terminal as a control character.

use crate::resp::Value;

/// The whole answer, ending in a newline unless it is empty.
pub(super) fn value(answer: &Value) -> String {
    let mut text = match answer {
        Value::Array(rows) if is_table(answer) => table(rows),
        Value::Array(lines) if lines.is_empty() => "(none)".to_owned(),
        Value::Array(lines) => lines.iter().map(cell).collect::<Vec<_>>().join("\n"),
        Value::Map(fields) => fields_and_tables(fields),
        Value::Bulk(bytes) | Value::Verbatim { text: bytes, .. } => lines(&String::from_utf8_lossy(bytes)),
        single => cell(single),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Rows under the names of the first row's columns, in its order; a column that only later rows have comes last.
fn table(rows: &[Value]) -> String {
    let mut columns: Vec<String> = Vec::new();
    let mut cells: Vec<Vec<String>> = Vec::new();
    let mut is_number: Vec<bool> = Vec::new();
    for row in rows {
        let Value::Map(fields) = row else { continue };
        let mut line = vec![String::new(); columns.len()];
        for (name, value) in fields {
            let name = cell(name);
            let at = columns
                .iter()
                .position(|column| *column == name)
                .unwrap_or_else(|| {
                    columns.push(name);
                    is_number.push(true);
                    line.push(String::new());
                    columns.len() - 1
                });
            line[at] = cell(value);
            is_number[at] &= matches!(value, Value::Int(_) | Value::Double(_) | Value::Null);
        }
        cells.push(line);
    }
    let width = |at: usize| {
        let longest = cells
            .iter()
            .filter_map(|line| line.get(at))
            .map(|cell| cell.chars().count())
            .max();
        longest.unwrap_or(0).max(columns[at].chars().count())
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for line in std::iter::once(&columns).chain(&cells) {
        let padded = widths.iter().enumerate().map(|(at, &width)| {
            let cell = line.get(at).map_or("", String::as_str);
            if is_number[at] {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn is_table(value: &Value) -> bool {
    let is_row = |row: &Value| matches!(row, Value::Map(_));
    matches!(value, Value::Array(rows) if !rows.is_empty() && rows.iter().all(is_row))
}

/// Fields, and then those whose values are tables, each under its name.
fn fields_and_tables(fields: &[(Value, Value)]) -> String {
    let (tables, single): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, value)| is_table(value));
    let mut text = list(&single);
    for (name, value) in tables {
        if let Value::Array(rows) = value {
            let gap = if text.is_empty() { "" } else { "\n\n" };
            text.push_str(&format!("{gap}{}\n{}", cell(name), table(rows).trim_end()));
        }
    }
    text
}

fn list(fields: &[&(Value, Value)]) -> String {
    let names: Vec<String> = fields
        .iter()
        .map(|(name, _)| format!("{}:", cell(name)))
        .collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let lines = names
        .iter()
        .zip(fields)
        .map(|(name, (_, value))| format!("{name:<width$} {}", cell(value)).trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// One value on one line.
fn cell(value: &Value) -> String {
    match value {
        Value::Int(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Null | Value::NullArray => "-".to_owned(),
        Value::Simple(text) => clean(text),
        Value::Error(text) | Value::BigNumber(text) => clean(text),
        Value::Bulk(bytes) | Value::Verbatim { text: bytes, .. } => clean(&String::from_utf8_lossy(bytes)),
        Value::Array(values) | Value::Set(values) | Value::Push(values) => {
            ranges(values).unwrap_or_else(|| values.iter().map(cell).collect::<Vec<_>>().join(","))
        }
        Value::Map(pairs) => {
            let pairs = pairs
                .iter()
                .map(|(name, value)| format!("{}={}", cell(name), cell(value)));
            pairs.collect::<Vec<_>>().join(" ")
        }
    }
}

/// Growing numbers as ranges: `0-511,1024`. None if there is anything else among them.
fn ranges(values: &[Value]) -> Option<String> {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for value in values {
        let Value::Int(number) = value else { return None };
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            Some((_, last)) if *number <= *last => return None,
            Some(_) | None => runs.push((*number, *number)),
        }
    }
    let shown = runs.iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    Some(shown.collect::<Vec<_>>().join(","))
}

/// Text without control characters, on one line.
fn clean(text: &str) -> String {
    text.chars().flat_map(shown).collect()
}

/// Text of several lines, their ends kept.
fn lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

fn shown(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fields: &[(&str, Value)]) -> Value {
        Value::Map(
            fields
                .iter()
                .map(|(name, value)| (Value::bulk(*name), value.clone()))
                .collect(),
        )
    }

    #[test]
    fn rows_are_an_aligned_table() {
        let rows = Value::Array(vec![
            row(&[
                ("shard", Value::Int(9)),
                ("node", Value::bulk("redis-1")),
                ("keys", Value::Null),
            ]),
            row(&[
                ("shard", Value::Int(10)),
                ("node", Value::bulk("b")),
                ("keys", Value::Int(1200)),
                ("more", Value::bulk("x")),
            ]),
        ]);
        let expected = "shard  node     keys  more\n    9  redis-1     -\n   10  b        1200  x\n";
        assert_eq!(value(&rows), expected);
    }

    #[test]
    fn fields_are_lines_and_shards_are_ranges() {
        let shards = [0, 1, 2, 7].map(Value::Int).to_vec();
        let fields = row(&[
            ("command", Value::bulk("mget")),
            ("shards", Value::Array(shards)),
            ("x", Value::bulk("")),
        ]);
        assert_eq!(value(&fields), "command: mget\nshards:  0-2,7\nx:\n");
    }

    #[test]
    fn tables_among_fields_come_below_them() {
        let moves = |rows: Vec<Value>| {
            row(&[
                ("id", Value::bulk("e1")),
                ("before", Value::Array(vec![row(&[("node", Value::bulk("a"))])])),
                ("moves", Value::Array(rows)),
                ("note", Value::bulk("x")),
            ])
        };
        assert_eq!(
            value(&moves(vec![row(&[
                ("shard", Value::Int(1)),
                ("keys", Value::Int(22))
            ])])),
            "id:   e1\nnote: x\n\nbefore\nnode\na\n\nmoves\nshard  keys\n    1    22\n"
        );
        assert_eq!(
            value(&moves(Vec::new())),
            "id:    e1\nmoves:\nnote:  x\n\nbefore\nnode\na\n"
        );
    }

    #[test]
    fn text_is_printed_as_it_is_and_cannot_command_the_terminal() {
        assert_eq!(value(&Value::bulk("# Server\r\na:1\r\n")), "# Server\na:1\n");
        assert_eq!(value(&Value::bulk("a\x1b[2Jb")), "a\\u{1b}[2Jb\n");
        assert_eq!(value(&Value::Int(7)), "7\n");
        assert_eq!(value(&Value::Array(Vec::new())), "(none)\n");
        assert_eq!(value(&Value::error("ERR no")), "ERR no\n");
        assert_eq!(
            value(&Value::Array(vec![
                Value::Simple("A".into()),
                Value::Simple("    b".into())
            ])),
            "A\n    b\n"
        );
    }
}

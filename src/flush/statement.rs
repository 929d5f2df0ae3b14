//! The user's statement, put behind the relation that it works on.
//!
//! ```text
//!  UPDATE … FROM delta      ─▶ WITH delta(member, delta) AS (…) UPDATE … FROM delta
//!  WITH x AS (…) INSERT …   ─▶ WITH delta(member, delta) AS (…), x AS (…) INSERT …
//! ```

/// What the arrays of members and deltas are called by.
const DELTA: &str = "delta(member, delta) AS (SELECT * FROM unnest($1::text[], $2::bigint[]))";

/// A statement that can be run with members and their deltas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement(String);

impl Statement {
    /// Puts the user's SQL behind `delta`.
    ///
    /// # Errors
    /// It is empty, or never names `delta`.
    pub fn new(sql: &str) -> Result<Self, &'static str> {
        let sql = sql.trim().trim_end_matches(';').trim_end();
        let start = skip(sql);
        let (comments, body) = sql.split_at(start);
        if body.is_empty() {
            return Err("there is no statement in it");
        }
        let words = body.split(|c: char| !c.is_alphanumeric() && c != '_');
        if !words.into_iter().any(|word| word.eq_ignore_ascii_case("delta")) {
            return Err("it does not name delta, the relation of members and their deltas");
        }
        let (rest, recursive) = match keyword(body, "WITH") {
            None => (None, false),
            Some(rest) => match keyword(rest, "RECURSIVE") {
                None => (Some(rest), false),
                Some(rest) => (Some(rest), true),
            },
        };
        let with = if recursive { "WITH RECURSIVE" } else { "WITH" };
        // On lines of their own, so that a comment at the end of one takes nothing with it.
        Ok(Self(match rest {
            Some(rest) => format!("{comments}{with} {DELTA},\n{rest}"),
            None => format!("{comments}{with} {DELTA}\n{body}"),
        }))
    }

    /// What is sent: `$1` are the members, `$2` the deltas.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where the first word begins, behind blanks and comments.
fn skip(sql: &str) -> usize {
    let mut rest = sql;
    loop {
        rest = rest.trim_start();
        if rest.starts_with("--") {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(inside) = rest.strip_prefix("/*") {
            rest = comment_end(inside);
        } else {
            return sql.len() - rest.len();
        }
    }
}

/// What stands behind a block comment; they nest.
fn comment_end(mut rest: &str) -> &str {
    let mut depth = 1;
    while depth > 0 {
        let (open, close) = (rest.find("/*"), rest.find("*/"));
        let Some(close) = close else { return "" };
        match open {
            Some(open) if open < close => {
                depth += 1;
                rest = &rest[open + 2..];
            }
            Some(_) | None => {
                depth -= 1;
                rest = &rest[close + 2..];
            }
        }
    }
    rest
}

/// What follows a word at the beginning, comments left out.
fn keyword<'a>(sql: &'a str, word: &str) -> Option<&'a str> {
    let sql = &sql[skip(sql)..];
    let (first, rest) = sql.split_at_checked(word.len())?;
    let ends = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    (ends && first.eq_ignore_ascii_case(word)).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> String {
        Statement::new(sql).unwrap().as_str().replace(DELTA, "DELTA")
    }

    #[test]
    fn the_statement_stands_behind_its_relation() {
        assert_eq!(
            of(" UPDATE e FROM delta d ; "),
            "WITH DELTA\nUPDATE e FROM delta d"
        );
        assert_eq!(
            of("with x as (t) insert delta"),
            "WITH DELTA,\n x as (t) insert delta"
        );
        assert_eq!(
            of("-- why\n/* a /* b */ */ WITH /**/ Recursive x AS (delta) y"),
            "-- why\n/* a /* b */ */ WITH RECURSIVE DELTA,\n x AS (delta) y"
        );
        assert_eq!(of("withdraw delta"), "WITH DELTA\nwithdraw delta");
    }

    #[test]
    fn what_cannot_work_is_told_at_once() {
        assert!(Statement::new(" ; ").is_err());
        assert!(Statement::new("-- delta").is_err());
        assert!(Statement::new("UPDATE deltas SET a = 1").is_err());
    }
}

//! The string literals of Rust: a scanner for the Rust that is written here.

/// A string literal of Rust; those of one `concat!` are one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Literal {
    pub(super) line: usize,
    pub(super) text: String,
}

/// The string literals of a source file, in order; not those in comments.
pub(super) fn literals(source: &str) -> Vec<Literal> {
    let mut literals: Vec<Literal> = Vec::new();
    let mut rest = source;
    // The code since the last literal, which tells whether the next one continues it.
    let mut between = String::new();
    while let Some(first) = rest.chars().next() {
        let skipped = comment(rest).or_else(|| character(rest)).unwrap_or(0);
        if skipped > 0 {
            rest = &rest[skipped..];
            continue;
        }
        let Some((text, length)) = raw_string(rest, &between).or_else(|| plain_string(rest)) else {
            between.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        match literals.last_mut() {
            Some(last) if continues(&between) => last.text.push_str(&text),
            _ => {
                let before = &source[..source.len() - rest.len()];
                literals.push(Literal { line: 1 + before.matches('\n').count(), text });
            }
        }
        rest = &rest[length..];
        between.clear();
    }
    literals
}

/// Whether there is nothing between two literals but commas and macros that stand for texts.
fn continues(between: &str) -> bool {
    let mut parts = between.split(',').map(str::trim);
    parts.next() == Some("")
        && between.contains(',')
        && parts.all(|part| part.is_empty() || part.ends_with("!()"))
}

/// How long the comment is that the text starts with.
fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    rest.starts_with("/*").then(|| rest.find("*/").map_or(rest.len(), |end| end + 2))
}

/// How long the character literal is that the text starts with; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    let length = if let Some(escaped) = inner.strip_prefix('\\') {
        // The escaped sign may be a quote itself.
        2 + escaped.get(1..)?.find('\'')?
    } else {
        let sign = inner.chars().next()?.len_utf8();
        inner[sign..].starts_with('\'').then_some(sign)?
    };
    Some(length + 2)
}

/// The text and the length of `r"…"` or `r#"…"#`.
fn raw_string(rest: &str, before: &str) -> Option<(String, usize)> {
    let is_name = before.ends_with(|sign: char| sign.is_alphanumeric() && sign != 'b');
    let inner = rest.strip_prefix('r').filter(|_| !is_name)?;
    let opened = inner.trim_start_matches('#');
    let end = format!("\"{}", "#".repeat(inner.len() - opened.len()));
    let body = opened.strip_prefix('"')?;
    let length = body.find(&end)?;
    Some((body[..length].to_owned(), rest.len() - body.len() + length + end.len()))
}

/// The text and the length of `"…"`.
fn plain_string(rest: &str) -> Option<(String, usize)> {
    let body = rest.strip_prefix('"')?;
    let (mut text, mut signs) = (String::new(), body.char_indices().peekable());
    while let Some((at, sign)) = signs.next() {
        match sign {
            '"' => return Some((text, at + 2)),
            '\\' => match signs.next()?.1 {
                // The line goes on at the next sign.
                '\n' => while signs.next_if(|(_, sign)| sign.is_whitespace()).is_some() {},
                'n' => text.push('\n'),
                't' => text.push('\t'),
                escaped => text.push(escaped),
            },
            sign => text.push(sign),
        }
    }
    None
}

#[test]
fn literals_are_found_where_rust_has_them() {
    let source = r####"
// "a comment"
/* "another" */
const QUOTE: char = '"'; const ESCAPED: char = '\''; fn f<'a>(it: &'a str) {}
const ONE: &str = "a \"b\" \
    c";
const TWO: &str = r#"d "e""#;
const THREE: &str = concat!("f ", columns!(), " g ",
    "h");
const FOUR: [u8; 1] = *b"i"; push("j").push("k");
"####;
    let found: Vec<_> = literals(source).into_iter().map(|it| (it.line, it.text)).collect();
    let found: Vec<_> = found.iter().map(|(line, text)| (*line, text.as_str())).collect();
    let expected =
        [(5, "a \"b\" c"), (7, "d \"e\""), (8, "f  g h"), (10, "i"), (10, "j"), (10, "k")];
    assert_eq!(found, expected);
}

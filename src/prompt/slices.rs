//! Rewrites templates without slices, to find out which variables they read.
//!
//! minijinja 3.0 does not look inside slices (`ast::Expr::Slice` in its `compiler/meta.rs`): it reports that `{{
//! text[:20] }}` reads nothing.

use std::borrow::Cow;

/// Returns a template that reads the same variables and has an index for each part of a slice: `text[1:n]` becomes
/// `text[1][n]`.
pub(super) fn without_slices(template: &str) -> Cow<'_, str> {
    let mut plain = String::with_capacity(template.len());
    let mut rest = template;
    let mut has_slices = false;
    while let Some(begin) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let (text, tag) = rest.split_at(begin + 2);
        plain.push_str(text);
        let end = end_of_tag(tag);
        let (inside, after) = tag.split_at(end);
        has_slices |= replace(inside, &mut plain);
        rest = after;
    }
    plain.push_str(rest);
    if has_slices { Cow::Owned(plain) } else { Cow::Borrowed(template) }
}

/// Returns the position in `tag`, the text after `{{` or `{%`, at which the content of the tag ends.
fn end_of_tag(tag: &str) -> usize {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in tag.char_indices() {
        match quote {
            Some(open) if c == open && before != '\\' => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if c == '}' && matches!(before, '}' | '%') => return at - 1,
            None => {}
        }
        before = c;
    }
    tag.len()
}

/// Appends the content of a tag to `plain`, with indices in place of slices. Returns whether it had any slices.
fn replace(inside: &str, plain: &mut String) -> bool {
    let mut open: Vec<OpenBracket> = Vec::new();
    let mut has_slices = false;
    let mut quote = None;
    let mut before = ' ';
    for c in inside.chars() {
        match quote {
            Some(opened) => {
                plain.push(c);
                if c == opened && before != '\\' {
                    quote = None;
                }
            }
            None => match c {
                '"' | '\'' => {
                    quote = Some(c);
                    plain.push(c);
                }
                '[' | '(' | '{' => {
                    plain.push(c);
                    open.push(OpenBracket { kind: c, part: plain.len(), is_slice: false });
                }
                ':' if let Some(bracket) = open.last_mut().filter(|bracket| bracket.kind == '[') => {
                    has_slices = true;
                    bracket.end_part(plain);
                    plain.push_str("][");
                    *bracket = OpenBracket { kind: '[', part: plain.len(), is_slice: true };
                }
                ']' | ')' | '}' => {
                    if let Some(bracket) = open.pop().filter(|bracket| bracket.is_slice) {
                        bracket.end_part(plain);
                    }
                    plain.push(c);
                }
                _ => plain.push(c),
            },
        }
        before = c;
    }
    has_slices
}

struct OpenBracket {
    kind: char,
    /// Where the current part of a slice begins in the output.
    part: usize,
    is_slice: bool,
}

impl OpenBracket {
    /// Ends a part of a slice. An empty part becomes 0.
    fn end_part(&self, plain: &mut String) {
        if plain.get(self.part..).is_some_and(|part| part.trim().is_empty()) {
            plain.push('0');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_become_indices_and_all_else_stays() {
        for (template, plain) in [
            ("{{ text[:20] }}", "{{ text[0][20] }}"),
            ("{{ (text | upper)[1:n] }} {{ b }}", "{{ (text | upper)[1][n] }} {{ b }}"),
            ("{% if a[ : ] %}x[:2]{% endif %}", "{% if a[ 0][ 0] %}x[:2]{% endif %}"),
            ("{{ a[b[1:]:c['x:y'] ] }}", "{{ a[b[1][0]][c['x:y'] ] }}"),
            ("{{ {'a': b[::2]} }}", "{{ {'a': b[0][0][2]} }}"),
            ("{{ '}}[:' }} {{ a['b'] }} [:] {{", "{{ '}}[:' }} {{ a['b'] }} [:] {{"),
        ] {
            let found = without_slices(template);
            if plain == template {
                assert!(matches!(found, Cow::Borrowed(_)));
            }
            // White space around an empty part may move.
            assert_eq!(found.replace(' ', ""), plain.replace(' ', ""), "{template}");
        }
    }

    #[test]
    fn what_is_sliced_is_seen() {
        let environment = minijinja::Environment::new();
        for template in ["{{ text[:20] }}", "{% for word in (text | upper)[n:] %}{{ word }}{% endfor %}"] {
            let plain = without_slices(template);
            let parsed = environment.template_from_str(&plain).unwrap();
            assert!(parsed.undeclared_variables(false).contains("text"), "{plain}");
        }
    }
}

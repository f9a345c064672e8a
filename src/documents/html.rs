//! The text of an HTML page: what a browser would show of it, without a tree.
//!
//! Time and memory grow with the page alone, however its elements nest.

use std::cell::RefCell;

use html5ever::TokenizerResult;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};

/// Returns the text of a page. Blocks begin lines, paragraphs and headings stand between empty lines, and tabs between
/// the cells of a row.
pub(super) fn text_of(page: &str) -> String {
    let input = BufferQueue::default();
    input.push_back(StrTendril::from_slice(page));
    let tokenizer = Tokenizer::new(TextSink::default(), TokenizerOpts::default());
    while let TokenizerResult::Script(()) = tokenizer.feed(&input) {}
    tokenizer.end();
    tokenizer.sink.0.into_inner().text
}

#[derive(Default)]
struct TextSink(RefCell<VisibleText>);

impl TokenSink for TextSink {
    type Handle = ();

    fn process_token(&self, token: Token, _: u64) -> TokenSinkResult<()> {
        let mut text = self.0.borrow_mut();
        match token {
            Token::CharacterTokens(characters) => text.push(&characters),
            Token::TagToken(tag) if tag.kind == TagKind::StartTag => return text.start(&tag),
            Token::TagToken(tag) => text.end(&tag.name),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

#[derive(Debug, Default)]
struct VisibleText {
    text: String,
    /// What stands before the next character.
    gap: TextBreak,
    /// Depth of elements whose white space counts.
    preformatted: usize,
    /// The element that hides what is in it, and how many of its name are open in it.
    hidden: Option<(String, usize)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum TextBreak {
    #[default]
    None,
    Space,
    Cell,
    Line,
    Paragraph,
}

impl VisibleText {
    fn start(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let name: &str = &tag.name;
        if let Some((hidden, depth)) = &mut self.hidden {
            *depth += usize::from(hidden == name && !tag.self_closing);
            // A drawing has elements of the same names whose content is not raw.
            if hidden == "svg" {
                return TokenSinkResult::Continue;
            }
        } else if is_hidden(name) && !(name == "svg" && tag.self_closing) {
            self.hidden = Some((name.to_owned(), 1));
        } else if name == "br" {
            self.gap = if self.gap >= TextBreak::Line { TextBreak::Paragraph } else { TextBreak::Line };
        } else {
            self.widen(gap_of(name));
            self.preformatted += usize::from(name == "pre");
        }
        match name {
            "script" => TokenSinkResult::RawData(RawKind::ScriptData),
            "style" | "xmp" | "iframe" | "noembed" | "noframes" => TokenSinkResult::RawData(RawKind::Rawtext),
            "title" | "textarea" => TokenSinkResult::RawData(RawKind::Rcdata),
            "plaintext" => TokenSinkResult::Plaintext,
            _ => TokenSinkResult::Continue,
        }
    }

    fn end(&mut self, name: &str) {
        match &mut self.hidden {
            Some((hidden, depth)) if hidden == name => {
                *depth -= 1;
                if *depth == 0 {
                    self.hidden = None;
                }
            }
            Some(_) => {}
            None => {
                self.widen(gap_of(name));
                self.preformatted -= usize::from(name == "pre" && self.preformatted > 0);
            }
        }
    }

    fn widen(&mut self, gap: TextBreak) {
        self.gap = self.gap.max(gap);
    }

    fn push(&mut self, characters: &str) {
        if self.hidden.is_some() {
            return;
        }
        for character in characters.chars() {
            if self.preformatted == 0 && character.is_ascii_whitespace() {
                self.widen(TextBreak::Space);
                continue;
            }
            let gap = std::mem::take(&mut self.gap);
            if !self.text.is_empty() {
                self.text.push_str(match gap {
                    TextBreak::None => "",
                    TextBreak::Space => " ",
                    TextBreak::Cell => "\t",
                    TextBreak::Line => "\n",
                    TextBreak::Paragraph => "\n\n",
                });
            }
            self.text.push(character);
        }
    }
}

/// Whether what is in an element is not shown.
fn is_hidden(name: &str) -> bool {
    matches!(
        name,
        "script"
            | "style"
            | "title"
            | "template"
            | "noscript"
            | "noembed"
            | "noframes"
            | "iframe"
            | "svg"
            | "canvas"
            | "audio"
            | "video"
    )
}

/// What stands before and after an element, as in the standard's `innerText`.
fn gap_of(name: &str) -> TextBreak {
    match name {
        "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "blockquote" | "pre" | "hr" => TextBreak::Paragraph,
        "address" | "article" | "aside" | "body" | "caption" | "center" | "dd" | "details" | "dialog"
        | "dir" | "div" | "dl" | "dt" | "fieldset" | "figcaption" | "figure" | "footer" | "form"
        | "header" | "hgroup" | "legend" | "li" | "main" | "menu" | "nav" | "ol" | "optgroup" | "option"
        | "search" | "section" | "summary" | "table" | "tbody" | "tfoot" | "thead" | "tr" | "ul" => {
            TextBreak::Line
        }
        "td" | "th" => TextBreak::Cell,
        _ => TextBreak::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_a_browser_shows_of_it() {
        for (page, expected) in [
            ("", ""),
            (
                "no tags, &amp; 3 &lt; 4 &eacute;&#x4e2d;&#128512;&nbsp;&unknown;",
                "no tags, & 3 < 4 é中😀\u{a0}&unknown;",
            ),
            ("<p>One\r\n two</p>\r\n<p>three<br>four<br><br>five</p>", "One two\n\nthree\nfour\n\nfive"),
            ("<div><div>a</div></div> <span>b</span><span>c</span>", "a\nbc"),
            ("<ul><li>a<li>b</ul>c", "a\nb\nc"),
            ("<table><tr><th>k<th>v</tr> <tr> <td>1</td> <td>2</td> </tr></table>", "k\tv\n1\t2"),
            ("a<pre>x\r\n  y &lt;</pre>b", "a\n\nx\n  y <\n\nb"),
            ("<head><title>T</title><style>p { a > b }</style></head><body>x", "x"),
            ("<script>if (a < b) { '<p>' } </script>x<!-- <p>y</p> -->z", "xz"),
            ("<script><!-- <script> </script> --></script>x", "x"),
            ("a<svg><style><b>n</style><title>t</title><text>u</text></svg>b<svg/>c", "abc"),
            ("a<template>b<template>c</template>d</template>e", "ae"),
            ("<noscript>turn it on</noscript>العربية <b>עברית</b> हिन्दी", "العربية עברית हिन्दी"),
            ("<p>cut off <b", "cut off"),
            ("</p></div></pre>stray", "stray"),
            ("<textarea><b>&amp;</textarea>", "<b>&"),
        ] {
            assert_eq!(text_of(page), expected, "{page}");
        }
    }

    #[test]
    fn elements_may_nest_as_deep_as_they_like() {
        let page = format!("{}x{}y", "<div><b>".repeat(200_000), "</b></div>".repeat(200_000));
        assert_eq!(text_of(&page), "x\ny");
    }
}

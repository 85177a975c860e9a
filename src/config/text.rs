//! The text of a configuration file: positions in it, and lines of it that are fit to be shown.
//!
//! 1. A [`Span`] counts characters from the start of the text; [`Text::position`] turns it into a
//!    line and a column, both from 1. Only `\n` ends a line, whatever the parser thinks.
//! 2. An excerpt shows one line. Every mask that touches the line is applied, whoever asked for
//!    it, so a secret is hidden in the excerpts of its neighbours too.
//! 3. An excerpt is at most [`WIDTH`] characters wide and holds no control or direction
//!    characters: a file cannot write to the terminal.

/// What stands in an excerpt where a secret stood; of one length, so that it tells no length.
const MASK: &str = "********";

/// The most characters of a line that an excerpt shows.
const WIDTH: usize = 160;

/// How many characters before the marked place are shown of a line that is too long.
const LEAD: usize = 40;

/// A range of characters of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
}

/// What must not be shown: disjoint, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Masks(Vec<Span>);

impl Masks {
    fn find(&self, index: usize) -> Option<Span> {
        let after = self.0.partition_point(|mask| mask.end <= index);
        self.0
            .get(after)
            .copied()
            .filter(|mask| mask.start <= index)
    }
}

impl FromIterator<Span> for Masks {
    fn from_iter<I: IntoIterator<Item = Span>>(spans: I) -> Self {
        let mut spans: Vec<Span> = spans
            .into_iter()
            .filter(|span| span.start < span.end)
            .collect();
        spans.sort_unstable();
        spans.dedup_by(|next, kept| {
            let touches = next.start < kept.end;
            if touches {
                kept.end = kept.end.max(next.end);
            }
            touches
        });
        Self(spans)
    }
}

/// One line, fit to be shown, with the place that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excerpt {
    pub(crate) text: String,
    /// Characters of `text` before the marked place.
    pub(crate) before: usize,
    /// Characters of the marked place, at least one.
    pub(crate) marked: usize,
}

/// A text and where its lines start.
#[derive(Debug)]
pub(crate) struct Text<'a> {
    /// Of each line: the number of its first character, and what it holds.
    lines: Vec<(usize, &'a str)>,
}

impl<'a> Text<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let mut next = 0;
        let line = |line: &'a str| {
            let start = next;
            next += line.chars().count() + 1;
            (start, line.strip_suffix('\r').unwrap_or(line))
        };
        Self {
            lines: text.split('\n').map(line).collect(),
        }
    }

    /// Line and column of a character, both from 1.
    pub(crate) fn position(&self, index: usize) -> (usize, usize) {
        let (number, start, _) = self.line(index);
        (number, index.saturating_sub(start) + 1)
    }

    /// The line that holds `span.start`, without what `masks` cover.
    pub(crate) fn excerpt(&self, span: Span, masks: &Masks) -> Excerpt {
        let (_, start, line) = self.line(span.start);
        // Of a long line only the surroundings are looked at; a mask that covers the cut covers it
        // still.
        let from = start.max(span.start.saturating_sub(WIDTH));
        let cut = line.chars().skip(from - start).take(3 * WIDTH);
        let mut shown = Vec::new();
        let (mut first, mut last) = (None, None);
        let mut masked_to = from;
        for (index, character) in (from..).zip(cut) {
            if index < masked_to {
                continue;
            }
            if index >= span.end {
                last.get_or_insert(shown.len());
            }
            let mask = masks.find(index);
            let next = mask.map_or(index + 1, |mask| mask.end);
            if (index..next).contains(&span.start) || index >= span.start {
                first.get_or_insert(shown.len());
            }
            match mask {
                Some(_) => shown.extend(MASK.chars()),
                None => shown.push(printable(character)),
            }
            masked_to = next;
        }
        let first = first.unwrap_or(shown.len());
        let last = last.unwrap_or(shown.len()).max(first + 1);
        window(&shown, first, last, from > start)
    }

    /// Number, first character and text of the line that holds a character.
    fn line(&self, index: usize) -> (usize, usize, &'a str) {
        let number = self.lines.partition_point(|(start, _)| *start <= index);
        let line = self.lines.get(number.saturating_sub(1)).copied();
        line.map_or((1, 0, ""), |(start, line)| (number, start, line))
    }
}

/// Cuts a long line to the surroundings of what is marked.
fn window(shown: &[char], first: usize, last: usize, was_cut: bool) -> Excerpt {
    let from = first
        .saturating_sub(LEAD)
        .min(shown.len().saturating_sub(WIDTH));
    let mut text: String = shown.iter().skip(from).take(WIDTH).collect();
    let mut before = first - from;
    if from > 0 || was_cut {
        text.insert(0, '…');
        before += 1;
    }
    if from + WIDTH < shown.len() {
        text.push('…');
    }
    let marked = (last - first)
        .min((WIDTH + 1).saturating_sub(before))
        .max(1);
    Excerpt {
        text,
        before,
        marked,
    }
}

/// The character itself, or a stand-in for one that would move the cursor.
fn printable(character: char) -> char {
    match character {
        '\t' => ' ',
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        other if other.is_control() => '\u{fffd}',
        other => other,
    }
}

/// A name from the text, quoted, short and harmless, for a message.
pub(crate) fn quoted(name: &str) -> String {
    const MOST: usize = 48;
    let mut short: String = name.chars().take(MOST).map(printable).collect();
    if name.chars().nth(MOST).is_some() {
        short.push('…');
    }
    format!("\"{short}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span_of(text: &str, part: &str) -> Span {
        let start = text[..text.find(part).unwrap()].chars().count();
        Span::new(start, start + part.chars().count())
    }

    #[test]
    fn a_position_counts_characters_not_bytes() {
        assert_eq!(Text::new("é: x\r\nb: ü y").position(9), (2, 4));
        assert_eq!(Text::new("").position(0), (1, 1));
        assert_eq!(Text::new("a").position(99), (1, 100));
    }

    #[test]
    fn an_excerpt_marks_its_place() {
        let text = "a: 1\n  b: two\nc: 3";
        let excerpt = Text::new(text).excerpt(span_of(text, "two"), &Masks::default());
        assert_eq!(
            excerpt,
            Excerpt {
                text: "  b: two".into(),
                before: 5,
                marked: 3
            }
        );
    }

    #[test]
    fn every_mask_on_the_line_is_applied() {
        let text = "{a: hunter2, b: bad, c: hunter3}";
        let secret = span_of(text, "hunter2");
        let masks = Masks::from_iter([span_of(text, "hunter3"), secret, secret]);
        let excerpt = Text::new(text).excerpt(span_of(text, "bad"), &masks);
        assert_eq!(excerpt.text, "{a: ********, b: bad, c: ********}");
        assert_eq!((excerpt.before, excerpt.marked), (17, 3));
        let itself = Text::new(text).excerpt(secret, &masks);
        assert_eq!((itself.before, itself.marked), (4, 8));
    }

    #[test]
    fn a_mask_over_several_lines_hides_each() {
        let text = "k: |\n  hunter\n  two\nz: 1";
        let masks = Masks::from_iter([Span::new(5, text.find('z').unwrap())]);
        assert_eq!(
            Text::new(text).excerpt(Span::new(16, 17), &masks).text,
            "********"
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}HERE{}", "x".repeat(500), "y".repeat(500));
        let excerpt = Text::new(&text).excerpt(span_of(&text, "HERE"), &Masks::default());
        assert_eq!(excerpt.text.chars().count(), WIDTH + 2);
        assert_eq!(
            excerpt
                .text
                .chars()
                .skip(excerpt.before)
                .take(4)
                .collect::<String>(),
            "HERE"
        );
    }

    #[test]
    fn a_mask_that_reaches_over_the_cut_covers_it_still() {
        let text = format!("a: {} b", "s".repeat(2000));
        let masks = Masks::from_iter([Span::new(3, 2003)]);
        for at in [0, 3, 1000, 2002] {
            let excerpt = Text::new(&text).excerpt(Span::new(at, at + 1), &masks);
            assert!(!excerpt.text.contains('s'), "{excerpt:?}");
        }
    }

    #[test]
    fn a_file_cannot_write_to_the_terminal() {
        let text = "a: \u{1b}[31m\tred\u{202e}";
        let shown = Text::new(text)
            .excerpt(Span::new(0, 1), &Masks::default())
            .text;
        assert_eq!(shown, "a: \u{fffd}[31m red\u{fffd}");
        assert_eq!(quoted("a\nb"), "\"a\u{fffd}b\"");
    }
}

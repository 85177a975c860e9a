//! Patterns over names: `*` is any text, `?` any one character, all else itself.

/// Whether `name` is of the pattern. Takes time in the product of both lengths at most, and no memory.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // Where to go on if it does not fit: after the last `*`, with one character more of the name taken by it.
    let mut again = None;
    loop {
        let at_name = name.clone();
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                again = Some((pattern.clone(), at_name.clone()));
                name = at_name;
            }
            (Some('?'), Some(_)) => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            _ => {
                let Some((after_star, mut taken)) = again.take() else {
                    return false;
                };
                if taken.next().is_none() {
                    return false;
                }
                again = Some((after_star.clone(), taken.clone()));
                (pattern, name) = (after_star, taken);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name, fits) in [
            ("get", "get", true),
            ("get", "gets", false),
            ("get_*", "get_", true),
            ("get_*", "get_all", true),
            ("*_read", "file_read_read", true),
            ("*_read", "file_reader", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("?", "ä", true),
            ("?", "", false),
            ("*", "", true),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}

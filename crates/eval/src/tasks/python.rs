//! Text functions as Python has them, where a protocol is defined by a Python program.

/// Whether `str.strip` takes this character away: Unicode's white space and four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.strip`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.capitalize`: the first letter upper-case, all others lower-case.
pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let mut first = first.to_uppercase();
    // ß begins a word as Ss.
    first.next().into_iter().chain(first.flat_map(char::to_lowercase)).collect::<String>()
        + &chars.as_str().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_python_says() {
        assert_eq!(capitalize("a few Women"), "A few women");
        assert_eq!(capitalize("ßA"), "Ssa");
        assert_eq!(capitalize(", He"), ", he");
        assert_eq!(capitalize(""), "");
        assert_eq!(strip("\u{1f}\u{a0} x\u{85}\n"), "x");
    }
}

//! Identifiers from the model's names.

use std::collections::BTreeSet;

/// Words that neither C, C++ nor Rust takes as an identifier, and those the texts themselves use.
pub(super) const KEYWORDS: &[&str] = &[
    "_",
    "abstract",
    "alignas",
    "alignof",
    "and",
    "and_eq",
    "arena",
    "as",
    "asm",
    "async",
    "auto",
    "await",
    "become",
    "bitand",
    "bitor",
    "bool",
    "box",
    "break",
    "case",
    "catch",
    "char",
    "class",
    "compl",
    "concept",
    "const",
    "const_cast",
    "constexpr",
    "continue",
    "crate",
    "decltype",
    "default",
    "delete",
    "do",
    "double",
    "dyn",
    "dynamic_cast",
    "else",
    "enum",
    "env",
    "explicit",
    "export",
    "extern",
    "false",
    "final",
    "float",
    "fn",
    "for",
    "friend",
    "gen",
    "goto",
    "if",
    "impl",
    "in",
    "inline",
    "int",
    "let",
    "long",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "mutable",
    "namespace",
    "new",
    "noexcept",
    "not",
    "not_eq",
    "nullptr",
    "operator",
    "or",
    "or_eq",
    "out",
    "override",
    "priv",
    "private",
    "protected",
    "pub",
    "ref",
    "register",
    "reinterpret_cast",
    "requires",
    "restrict",
    "return",
    "self",
    "Self",
    "short",
    "signed",
    "sizeof",
    "static",
    "static_assert",
    "static_cast",
    "struct",
    "super",
    "switch",
    "template",
    "this",
    "thread_local",
    "throw",
    "trait",
    "true",
    "try",
    "type",
    "typedef",
    "typeid",
    "typename",
    "typeof",
    "union",
    "unsafe",
    "unsigned",
    "unsized",
    "use",
    "using",
    "virtual",
    "void",
    "volatile",
    "wchar_t",
    "weights",
    "where",
    "while",
    "xor",
    "xor_eq",
    "yield",
];

/// Gives out identifiers, each once.
pub(super) struct Names<'a> {
    keywords: &'a [&'a str],
    taken: BTreeSet<String>,
}

impl<'a> Names<'a> {
    pub(super) fn new(keywords: &'a [&'a str]) -> Names<'a> {
        Names { keywords, taken: BTreeSet::new() }
    }

    /// An identifier like `name` that was not given before, in either case: macros are upper case.
    pub(super) fn fresh(&mut self, name: &str) -> String {
        let mut id: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        // Underscores at the ends are reserved in C, or mean "unused" in Rust.
        id = id.trim_matches('_').to_string();
        if id.is_empty() {
            id = "tensor".into();
        }
        if id.starts_with(|c: char| c.is_ascii_digit()) {
            id = format!("t{id}");
        }
        if self.keywords.contains(&id.as_str()) {
            id.push('_');
        }
        let mut unique = id.clone();
        let mut n = 2;
        while !self.taken.insert(unique.to_ascii_lowercase()) {
            unique = format!("{id}_{n}");
            n += 1;
        }
        unique
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_identifiers_and_unique() {
        let mut n = Names::new(KEYWORDS);
        let given: Vec<String> = ["input.1", "input:1", "Input_1", "1x", "", "int", "/a/b*/", "größe"]
            .iter()
            .map(|s| n.fresh(s))
            .collect();
        assert_eq!(given, ["input_1", "input_1_2", "Input_1_3", "t1x", "tensor", "int_", "a_b", "gr__e"]);
    }
}

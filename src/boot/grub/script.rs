//! GRUB's script language, as much of it as grub.cfg needs: text to a tree. Nothing is evaluated here.

/// Deeper than any grub.cfg; keeps a hostile one from exhausting the stack.
const MAX_DEPTH: u32 = 64;

/// A piece of a [`Word`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Taken as it stands.
    Text(String),
    /// The value of a variable.
    Variable(String),
}

/// One word of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// To be put together.
    pub parts: Vec<Part>,
    /// Whether any of it stood in quotes, so that it is no keyword.
    pub quoted: bool,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A plain command.
    Command(Vec<Word>),
    /// `if`, with its `elif`s (condition, body) and what follows `else`.
    If(Vec<(Vec<Node>, Vec<Node>)>, Vec<Node>),
    /// The body of a `for`, `while` or `until`.
    Loop(Vec<Node>),
    /// `menuentry` or `submenu`, with its words (the command's name is the first) and its body.
    Menu(Vec<Word>, Vec<Node>),
}

/// The text is no GRUB script that can be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadScript {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// Parses a script.
///
/// # Errors
/// [`BadScript`] where quotes, braces or `if … fi` do not match.
pub fn parse(text: &str) -> Result<Vec<Node>, BadScript> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let nodes = parser.list(&[])?;
    match parser.next() {
        None => Ok(nodes),
        Some(_) => Err(parser.bad("'}' without '{'")),
    }
}

impl Word {
    fn push(&mut self, c: char) {
        match self.parts.last_mut() {
            Some(Part::Text(text)) => text.push(c),
            _ => self.parts.push(Part::Text(c.into())),
        }
    }

    /// The word, where it is plain text without quotes.
    pub fn plain(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] if !self.quoted => Some(text),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(Word),
    End,
    Open,
    Close,
}

type Input<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Cuts `text` into tokens, each with its line.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, BadScript> {
    let (mut found, mut line, mut input) = (Vec::new(), 1, text.chars().peekable());
    while let Some(&c) = input.peek() {
        let token = match c {
            '\n' | ';' => Token::End,
            '{' => Token::Open,
            '}' => Token::Close,
            ' ' | '\t' | '\r' => {
                input.next();
                continue;
            }
            '#' => {
                while input.next_if(|c| *c != '\n').is_some() {}
                continue;
            }
            _ => {
                let begin = line;
                let word = word(&mut input, &mut line).map_err(|what| BadScript { line: begin, what })?;
                found.push((begin, Token::Word(word)));
                continue;
            }
        };
        found.push((line, token));
        input.next();
        line += usize::from(c == '\n');
    }
    Ok(found)
}

/// Reads one word; the error is what is wrong with it.
fn word(input: &mut Input<'_>, line: &mut usize) -> Result<Word, String> {
    let mut word = Word::default();
    let mut in_double = false;
    while let Some(&c) = input.peek() {
        if !in_double && matches!(c, ' ' | '\t' | '\r' | '\n' | ';' | '{' | '}') {
            break;
        }
        input.next();
        *line += usize::from(c == '\n');
        match c {
            '"' => (in_double, word.quoted) = (!in_double, true),
            '\'' if !in_double => {
                word.quoted = true;
                loop {
                    let c = input.next().ok_or("a ' is not closed")?;
                    if c == '\'' {
                        break;
                    }
                    *line += usize::from(c == '\n');
                    word.push(c);
                }
            }
            '\\' => match input.next() {
                Some('\n') => *line += 1,
                Some(c) if in_double && !matches!(c, '"' | '$' | '\\') => {
                    word.push('\\');
                    word.push(c);
                }
                Some(c) => word.push(c),
                None => return Err("it ends in a backslash".into()),
            },
            '$' => variable(input, &mut word)?,
            c => word.push(c),
        }
    }
    if in_double { Err("a \" is not closed".into()) } else { Ok(word) }
}

/// Reads what follows a `$`.
fn variable(input: &mut Input<'_>, word: &mut Word) -> Result<(), String> {
    let named = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let mut name = String::new();
    match input.peek().copied() {
        Some('{') => {
            input.next();
            loop {
                match input.next() {
                    Some('}') => break,
                    Some(c) if c != '\n' => name.push(c),
                    _ => return Err("a ${ is not closed".into()),
                }
            }
        }
        Some(c @ ('?' | '#' | '*' | '@')) => {
            input.next();
            name.push(c);
        }
        Some(c) if named(&c) => {
            while let Some(c) = input.next_if(named) {
                name.push(c);
            }
        }
        _ => {
            word.push('$');
            return Ok(());
        }
    }
    word.parts.push(Part::Variable(name));
    Ok(())
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: u32,
}

/// Words that end a list and are of no use elsewhere.
const CLOSING: [&str; 6] = ["then", "elif", "else", "fi", "do", "done"];

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.at += usize::from(token.is_some());
        token
    }

    fn keyword(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Word(word)) => word.plain(),
            _ => None,
        }
    }

    fn bad(&self, what: impl Into<String>) -> BadScript {
        let near = self.tokens.get(self.at.saturating_sub(1)).or(self.tokens.last());
        BadScript { line: near.map_or(1, |(line, _)| *line), what: what.into() }
    }

    /// Statements up to one of the keywords `until`, a `}`, or the end of the text, none of which is consumed.
    fn list(&mut self, until: &[&str]) -> Result<Vec<Node>, BadScript> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.bad("it is nested too deeply"));
        }
        let mut nodes = Vec::new();
        loop {
            match self.peek() {
                None | Some(Token::Close) => break,
                Some(Token::End) => self.at += 1,
                Some(Token::Open) => nodes.extend(self.braces()?),
                Some(Token::Word(_)) => match self.keyword() {
                    Some(word) if until.contains(&word) => break,
                    Some(word) if CLOSING.contains(&word) => return Err(self.bad(format!("'{word}' out of place"))),
                    _ => nodes.extend(self.statement()?),
                },
            }
        }
        self.depth -= 1;
        Ok(nodes)
    }

    fn statement(&mut self) -> Result<Option<Node>, BadScript> {
        let keyword = self.keyword().unwrap_or_default().to_string();
        match keyword.as_str() {
            "if" => self.condition().map(Some),
            "for" | "while" | "until" => {
                self.at += 1;
                self.list(&["do"])?;
                self.expect("do")?;
                let body = self.list(&["done"])?;
                self.expect("done")?;
                Ok(Some(Node::Loop(body)))
            }
            _ => {
                let (mut words, mut body) = (Vec::new(), None);
                loop {
                    match self.peek() {
                        Some(Token::Word(_)) => {
                            let Some(Token::Word(word)) = self.next() else { break };
                            words.push(word);
                        }
                        Some(Token::Open) => body = Some(self.braces()?),
                        _ => break,
                    }
                }
                Ok(match keyword.as_str() {
                    "menuentry" | "submenu" => Some(Node::Menu(words, body.unwrap_or_default())),
                    "function" => None,
                    _ => Some(Node::Command(words)),
                })
            }
        }
    }

    fn condition(&mut self) -> Result<Node, BadScript> {
        let (mut branches, mut otherwise) = (Vec::new(), Vec::new());
        self.at += 1; // if
        loop {
            let condition = self.list(&["then"])?;
            self.expect("then")?;
            branches.push((condition, self.list(&["elif", "else", "fi"])?));
            match self.keyword() {
                Some("elif") => self.at += 1,
                Some("else") => {
                    self.at += 1;
                    otherwise = self.list(&["fi"])?;
                    break;
                }
                _ => break,
            }
        }
        self.expect("fi")?;
        Ok(Node::If(branches, otherwise))
    }

    fn braces(&mut self) -> Result<Vec<Node>, BadScript> {
        self.at += 1; // {
        let body = self.list(&[])?;
        match self.next() {
            Some(Token::Close) => Ok(body),
            _ => Err(self.bad("a '{' is not closed")),
        }
    }

    fn expect(&mut self, keyword: &str) -> Result<(), BadScript> {
        if self.keyword() == Some(keyword) {
            self.at += 1;
            return Ok(());
        }
        Err(self.bad(format!("'{keyword}' is missing")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commands(text: &str) -> Vec<Vec<String>> {
        let word = |w: &Word| {
            let part = |p: &Part| match p {
                Part::Text(t) => t.clone(),
                Part::Variable(v) => format!("<{v}>"),
            };
            w.parts.iter().map(part).collect::<String>()
        };
        let nodes = parse(text).unwrap();
        let words = nodes.iter().filter_map(|n| if let Node::Command(words) = n { Some(words) } else { None });
        words.map(|c| c.iter().map(word).collect()).collect()
    }

    #[test]
    fn words_and_quotes() {
        for (text, want) in [
            ("a b;c # d\ne", vec![vec!["a", "b"], vec!["c"], vec!["e"]]),
            (r#"set default="${saved_entry}""#, vec![vec!["set", "default=<saved_entry>"]]),
            (r#"[ x"${a}" = x$b ]"#, vec![vec!["[", "x<a>", "=", "x<b>", "]"]]),
            (r#"echo 'it'\''s' "a \"b\" \$c \d""#, vec![vec!["echo", "it's", r#"a "b" $c \d"#]]),
            ("a\\\nb ''", vec![vec!["ab", ""]]),
            ("[ \"$?\" = 0 ]", vec![vec!["[", "<?>", "=", "0", "]"]]),
        ] {
            assert_eq!(commands(text), want, "{text}");
        }
    }

    #[test]
    fn what_does_not_match_is_refused() {
        for (text, line, what) in [
            ("a\n'b\n", 2, "' is not closed"),
            ("a \"b", 1, "\" is not closed"),
            ("menuentry x {\n}\n}\n", 3, "without"),
            ("menuentry x {\na\n", 3, "'{' is not closed"),
            ("if a; then b\n", 2, "'fi' is missing"),
            ("if a; fi", 1, "'fi' out of place"),
            ("echo ${a\n", 1, "${ is not closed"),
        ] {
            let e = parse(text).unwrap_err();
            assert!(e.what.contains(what) && e.line <= line, "{text}: {e}");
        }
        assert!(parse(&"if a; then ".repeat(100_000)).unwrap_err().what.contains("nested"));
        assert!(parse(&"{".repeat(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_what_looks_like_grub(
            words in prop::collection::vec(prop::sample::select(&[
                "if", "then", "elif", "else", "fi", "menuentry", "submenu", "{", "}", ";", "\n", "'", "\"", "\\", "$", "${",
                "for", "do", "done", "[", "]", "set default=", "x", "--id", "#", "function",
            ][..]), 0..60),
        ) {
            let _ = parse(&words.join(" "));
            let _ = parse(&words.concat());
        }
    }
}

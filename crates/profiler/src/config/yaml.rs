//! YAML into a tree that knows where everything stands.
//!
//! **In**: a file's text, of whoever administers the machine. **Out**: [`Node`]s, environment variables substituted
//! in scalar values only, so that a variable can not add structure. **Units**: lines and columns from 1.
//! **Limits**: [`MAX_FILE_BYTES`], [`MAX_DEPTH`], [`MAX_NODES`] (aliases count in full); past them an error.

use std::collections::HashMap;
use std::path::Path;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::error::{ConfigError, Place};
use super::substitute::substitute;

/// The largest file that is read.
pub(crate) const MAX_FILE_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 20_000;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Line, from 1.
    pub(crate) line: usize,
    /// Column, from 1.
    pub(crate) column: usize,
    /// What it is.
    pub(crate) kind: Kind,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Nothing, `~` or `null`, also after substitution.
    Null,
    /// Text, number or boolean: whoever asks decides.
    Scalar(String),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and values in the file's order.
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    /// The text of a scalar.
    pub(crate) fn scalar(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(text) => Some(text),
            _ => None,
        }
    }

    fn count(&self) -> usize {
        1 + match &self.kind {
            Kind::Null | Kind::Scalar(_) => 0,
            Kind::Sequence(items) => items.iter().map(Self::count).sum(),
            Kind::Mapping(pairs) => pairs.iter().map(|(k, v)| k.count() + v.count()).sum(),
        }
    }
}

/// Parses one document.
///
/// # Errors
/// Where it is not YAML, uses what is not supported (several documents, duplicate or non-scalar keys), is too large, or
/// refers to a variable wrongly.
pub(crate) fn parse(text: &str, file: &Path, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Node, ConfigError> {
    let mut builder = Builder { file, lookup, parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    if text.len() > MAX_FILE_BYTES {
        return Err(builder.error(Marker::new(0, 1, 0), format!("is larger than {MAX_FILE_BYTES} bytes")));
    }
    let mut root = None;
    loop {
        let (event, at) = builder.next()?;
        match event {
            Event::StreamEnd => break,
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            other if root.is_none() => root = Some(builder.node(other, at, 0, true)?),
            _ => return Err(builder.error(at, "a second document; only one is allowed".into())),
        }
    }
    Ok(root.unwrap_or(Node { line: 1, column: 1, kind: Kind::Null }))
}

struct Builder<'a> {
    file: &'a Path,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn error(&self, at: Marker, problem: String) -> ConfigError {
        let place = Place { file: self.file.to_owned(), line: at.line().max(1), column: at.col() + 1 };
        ConfigError::Syntax { place, problem }
    }

    fn next(&mut self) -> Result<(Event<'a>, Marker), ConfigError> {
        match self.parser.next_event() {
            None => Ok((Event::StreamEnd, Marker::default())),
            Some(Ok((event, span))) => Ok((event, span.start)),
            Some(Err(e)) => Err(self.error(*e.marker(), format!("not YAML: {}", e.info()))),
        }
    }

    fn count(&mut self, nodes: usize, at: Marker) -> Result<(), ConfigError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES { Err(self.error(at, format!("more than {MAX_NODES} values"))) } else { Ok(()) }
    }

    /// Builds the node that `event` begins. Keys are not substituted.
    fn node(&mut self, event: Event<'a>, at: Marker, depth: usize, value: bool) -> Result<Node, ConfigError> {
        if depth > MAX_DEPTH {
            return Err(self.error(at, format!("nested deeper than {MAX_DEPTH}")));
        }
        self.count(1, at)?;
        let (anchor, kind) = match event {
            Event::Scalar(text, style, anchor, _) => (anchor, self.scalar(&text, style, at, value)?),
            Event::SequenceStart(anchor, _) => (anchor, Kind::Sequence(self.sequence(depth)?)),
            Event::MappingStart(anchor, _) => (anchor, Kind::Mapping(self.mapping(depth)?)),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.error(at, "an alias of itself".into()));
                };
                self.count(node.count(), at)?;
                (0, node.kind)
            }
            _ => return Err(self.error(at, "a value was expected".into())),
        };
        let node = Node { line: at.line(), column: at.col() + 1, kind };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn scalar(&self, text: &str, style: ScalarStyle, at: Marker, value: bool) -> Result<Kind, ConfigError> {
        let text = if value {
            substitute(text, self.lookup).map_err(|problem| self.error(at, problem))?
        } else {
            text.to_owned()
        };
        let null = style == ScalarStyle::Plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
        Ok(if null { Kind::Null } else { Kind::Scalar(text) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Vec<Node>, ConfigError> {
        let mut items = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(items);
            }
            items.push(self.node(event, at, depth + 1, true)?);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<(Node, Node)>, ConfigError> {
        let mut pairs: Vec<(Node, Node)> = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(pairs);
            }
            let key = self.node(event, at, depth + 1, false)?;
            let Some(name) = key.scalar() else {
                return Err(self.error(at, "a key must be a plain word".into()));
            };
            if pairs.iter().any(|(k, _)| k.scalar() == Some(name)) {
                return Err(self.error(at, format!("the key `{name}` stands twice")));
            }
            let (event, at) = self.next()?;
            let value = self.node(event, at, depth + 1, true)?;
            pairs.push((key, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Node, String> {
        let lookup = |name: &str| match name {
            "NUMBER" => Some("7".to_owned()),
            "EVIL" => Some("x\n  injected: 1".to_owned()),
            _ => None,
        };
        parse(text, Path::new("f.yaml"), &lookup).map_err(|e| e.to_string())
    }

    fn get<'a>(node: &'a Node, key: &str) -> &'a Node {
        match &node.kind {
            Kind::Mapping(pairs) => &pairs.iter().find(|(k, _)| k.scalar() == Some(key)).unwrap().1,
            other => panic!("not a mapping: {other:?}"),
        }
    }

    #[test]
    fn values_know_their_places_and_variables_are_text_only() {
        let root = read("a: 1\nb:\n  - x\n  - ${NUMBER}\nc: ${EVIL}\nd: ${NOTHING}\ne: '${NOTHING}'\n").unwrap();
        assert_eq!((get(&root, "a").line, get(&root, "a").column), (1, 4));
        let Kind::Sequence(items) = &get(&root, "b").kind else { panic!("a list") };
        assert_eq!((items[1].scalar(), items[1].line, items[1].column), (Some("7"), 4, 5));
        assert_eq!(get(&root, "c").scalar(), Some("x\n  injected: 1"));
        assert!(matches!(get(&root, "d").kind, Kind::Null));
        assert_eq!(get(&root, "e").scalar(), Some(""));
    }

    #[test]
    fn aliases_repeat_and_can_not_explode() {
        let root = read("a: &x {k: v}\nb: *x\n").unwrap();
        assert_eq!(get(get(&root, "b"), "k").scalar(), Some("v"));
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..10 {
            let list = vec![format!("*a{}", i - 1); 10].join(",");
            bomb += &format!("a{i}: &a{i} [{list}]\n");
        }
        assert!(read(&bomb).unwrap_err().contains("more than"), "bounded");
    }

    #[test]
    fn errors_say_where() {
        for (text, want) in [
            ("a: 1\na: 2\n", "f.yaml:2:1: the key `a` stands twice"),
            ("a: 1\n---\nb: 2\n", "f.yaml:3:1: a second document"),
            ("a: ${1}\n", "f.yaml:1:4: `${1}`"),
            ("a: [1\n", "f.yaml:"),
            ("a: b: c\n", "f.yaml:1:"),
            ("? [a]\n: b\n", "a key must be"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(want), "{text:?}: {error}");
        }
        assert!(read(&"[".repeat(1000)).is_err());
        assert!(read(&"- ".repeat(1000)).unwrap_err().contains("nested deeper"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "\\PC{0,60}", lines in "[-a:\\[\\]{}&*!|>'\"#%@` \n]{0,60}") {
            let _ = read(&text);
            let _ = read(&lines);
        }
    }
}

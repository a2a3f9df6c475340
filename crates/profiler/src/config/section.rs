//! One mapping of a configuration file, read key by key: unknown keys are errors with a place and a guess.

use std::path::Path;

use super::error::{ConfigError, Place, nearest};
use super::otlp::Sourced;
use super::value::escape_item;
use super::yaml::{Kind, Node};

/// A mapping and its path from the top.
pub(crate) struct Section<'a> {
    file: &'a Path,
    path: String,
    pairs: &'a [(Node, Node)],
}

impl<'a> Section<'a> {
    /// The mapping at `node`; nothing (null) is an empty mapping.
    ///
    /// # Errors
    /// It is a list or a single value.
    pub(crate) fn of(file: &'a Path, path: &str, node: &'a Node) -> Result<Self, ConfigError> {
        let pairs = match &node.kind {
            Kind::Mapping(pairs) => pairs.as_slice(),
            Kind::Null => &[],
            Kind::Scalar(_) | Kind::Sequence(_) => {
                let what = if path.is_empty() { "the file" } else { path };
                return Err(syntax(file, node, format!("`{what}` must be a mapping: `key: value` lines")));
            }
        };
        Ok(Self { file, path: path.to_owned(), pairs })
    }

    /// Keys and values that are not null.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Node)> + use<'a> {
        self.pairs.iter().filter_map(|(k, v)| Some((k.scalar()?, v))).filter(|(_, v)| !matches!(v.kind, Kind::Null))
    }

    /// Refuses keys that are not among `known`.
    ///
    /// # Errors
    /// The first unknown key.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), ConfigError> {
        for (key, _) in self.pairs {
            let name = key.scalar().unwrap_or_default();
            if !known.contains(&name) {
                return Err(self.unknown(name, known.iter().copied()));
            }
        }
        Ok(())
    }

    /// The error for a key of this section.
    pub(crate) fn unknown<'k>(&self, name: &str, known: impl IntoIterator<Item = &'k str>) -> ConfigError {
        let place = self
            .pairs
            .iter()
            .find(|(k, _)| k.scalar() == Some(name))
            .map_or_else(|| place(self.file, 1, 1), |(k, _)| place(self.file, k.line, k.column));
        ConfigError::UnknownKey {
            place,
            key: name.to_owned(),
            section: self.path.clone(),
            nearest: nearest(name, known),
        }
    }

    /// The value of a key, unless null.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Node> {
        self.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The section under a key.
    ///
    /// # Errors
    /// It is not a mapping.
    pub(crate) fn section(&self, key: &str) -> Result<Option<Section<'a>>, ConfigError> {
        // A key that is there with nothing under it is an empty section: `prometheus/development:`.
        let Some((_, node)) = self.pairs.iter().find(|(k, _)| k.scalar() == Some(key)) else { return Ok(None) };
        Section::of(self.file, &self.join(key), node).map(Some)
    }

    /// The items of a list under a key.
    ///
    /// # Errors
    /// It is not a list.
    pub(crate) fn list(&self, key: &str) -> Result<&'a [Node], ConfigError> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Node { kind: Kind::Sequence(items), .. }) => Ok(items),
            Some(node) => Err(syntax(self.file, node, format!("`{}` must be a list", self.join(key)))),
        }
    }

    /// The text under a key, with its place.
    ///
    /// # Errors
    /// It is a mapping or a list.
    pub(crate) fn text(&self, key: &str) -> Result<Option<Sourced>, ConfigError> {
        self.get(key).map(|node| self.scalar(key, node)).transpose()
    }

    /// The text of a value that stands under `key`; a list of texts is one text, as [`list`](super::value::list) reads it.
    ///
    /// # Errors
    /// It is a mapping, or a list of other things.
    pub(crate) fn scalar(&self, key: &str, node: &Node) -> Result<Sourced, ConfigError> {
        let origin = format!("{}: {}", place(self.file, node.line, node.column), self.join(key));
        let value = match &node.kind {
            Kind::Scalar(text) => text.clone(),
            Kind::Sequence(items) if items.iter().all(|i| i.scalar().is_some()) => {
                items.iter().filter_map(Node::scalar).map(escape_item).collect::<Vec<_>>().join(",")
            }
            _ => return Err(syntax(self.file, node, format!("`{}` must be a single value", self.join(key)))),
        };
        Ok(Sourced { value, origin })
    }

    /// The path of a key of this section.
    pub(crate) fn join(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The file.
    pub(crate) fn file(&self) -> &'a Path {
        self.file
    }
}

/// A place in a file.
pub(crate) fn place(file: &Path, line: usize, column: usize) -> Place {
    Place { file: file.to_owned(), line, column }
}

/// An error at a node.
pub(crate) fn syntax(file: &Path, node: &Node, problem: String) -> ConfigError {
    ConfigError::Syntax { place: place(file, node.line, node.column), problem }
}

//! The `a{sv}` option dictionaries of methods: known keys of the right type, nothing else.

use std::collections::HashMap;

use zbus::{OwnedVariant, Variant};

use super::Error;

/// Options as they come from the bus.
pub type Dict = HashMap<String, OwnedVariant>;

/// Hands out the options of one call and, at the end, complains about those that nobody asked for.
pub struct Options(Dict);

impl Options {
    /// Wraps the dictionary of a call.
    pub fn new(dict: Dict) -> Self {
        Self(dict)
    }

    /// A string; `None` where it is absent or empty.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another type.
    pub fn string(&mut self, key: &str) -> Result<Option<String>, Error> {
        Ok(self.take::<String>(key, "s")?.filter(|s| !s.is_empty()))
    }

    /// A boolean; `false` where it is absent.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another type.
    pub fn boolean(&mut self, key: &str) -> Result<bool, Error> {
        Ok(self.take::<bool>(key, "b")?.unwrap_or(false))
    }

    /// A list of strings; `None` where it is absent.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another type.
    pub fn strings(&mut self, key: &str) -> Result<Option<Vec<String>>, Error> {
        self.take::<Vec<String>>(key, "as")
    }

    /// No other option may be there.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming one that nobody asked for.
    pub fn end(self) -> Result<(), Error> {
        match self.0.keys().min() {
            Some(key) => Err(Error::InvalidArgument(format!("there is no option '{key}'"))),
            None => Ok(()),
        }
    }

    fn take<T: TryFrom<Variant<'static>>>(&mut self, key: &str, signature: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.0.remove(key) else { return Ok(None) };
        let wrong = || Error::InvalidArgument(format!("option '{key}' has to be of type '{signature}'"));
        T::try_from(Variant::from(value)).map(Some).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dict<const N: usize>(entries: [(&str, Variant<'static>); N]) -> Options {
        Options::new(entries.into_iter().map(|(k, v)| (k.to_string(), v.try_into().unwrap())).collect())
    }

    #[test]
    fn types_are_checked_and_leftovers_are_named() {
        let mut o = dict([("a", "x".into()), ("b", true.into()), ("c", vec!["y".to_string()].into())]);
        assert_eq!(o.string("a"), Ok(Some("x".into())));
        assert_eq!(o.boolean("b"), Ok(true));
        assert_eq!(o.strings("c"), Ok(Some(vec!["y".into()])));
        assert_eq!((o.string("z"), o.end()), (Ok(None), Ok(())));
        let mut o = dict([("a", 1u32.into()), ("stray", true.into())]);
        assert!(matches!(o.string("a"), Err(Error::InvalidArgument(m)) if m.contains("'a'")));
        assert!(matches!(o.end(), Err(Error::InvalidArgument(m)) if m.contains("stray")));
    }
}

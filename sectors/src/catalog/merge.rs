//! Several layers read as one tree.

use super::{CatalogError, Line};
use crate::entry::{Entry, path_cmp};

/// One layer: a sorted run of lines.
type LayerLines = Box<dyn Iterator<Item = Result<Line, CatalogError>> + Send>;

struct Cursor {
    lines: LayerLines,
    head: Option<Line>,
}

impl Cursor {
    fn advance(&mut self) -> Result<(), CatalogError> {
        let next = self.lines.next().transpose()?;
        if let (Some(a), Some(b)) = (&self.head, &next)
            && path_cmp(a.path(), b.path()).is_ge()
        {
            return Err(CatalogError::Damaged { line: 0, what: "the parts of a layer are out of order" });
        }
        self.head = next;
        Ok(())
    }
}

/// The entries of a chain of layers in path order; later layers override earlier ones.
pub struct Merge {
    /// Newest first, so that the first cursor with the smallest path wins.
    cursors: Vec<Cursor>,
    failed: bool,
}

impl std::fmt::Debug for Merge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Merge({} layers)", self.cursors.len())
    }
}

impl Merge {
    /// `layers` in the order of the chain: oldest first.
    pub fn new(layers: Vec<LayerLines>) -> Result<Self, CatalogError> {
        let mut cursors = Vec::with_capacity(layers.len());
        for lines in layers.into_iter().rev() {
            let mut c = Cursor { lines, head: None };
            c.advance()?;
            cursors.push(c);
        }
        Ok(Self { cursors, failed: false })
    }

    fn step(&mut self) -> Result<Option<Line>, CatalogError> {
        let mut best: Option<usize> = None;
        for (i, c) in self.cursors.iter().enumerate() {
            let Some(head) = &c.head else { continue };
            let smaller = match best.and_then(|b| self.cursors[b].head.as_ref()) {
                Some(b) => path_cmp(head.path(), b.path()).is_lt(),
                None => true,
            };
            if smaller {
                best = Some(i);
            }
        }
        let Some(best) = best else { return Ok(None) };
        let Some(line) = self.cursors[best].head.take() else { return Ok(None) };
        // The head was taken for the order check too, so put the path back through the check by hand.
        for (i, c) in self.cursors.iter_mut().enumerate() {
            if i == best {
                let next = c.lines.next().transpose()?;
                if next.as_ref().is_some_and(|n| path_cmp(line.path(), n.path()).is_ge()) {
                    return Err(CatalogError::Damaged { line: 0, what: "the parts of a layer are out of order" });
                }
                c.head = next;
            } else if c.head.as_ref().is_some_and(|h| h.path() == line.path()) {
                c.advance()?;
            }
        }
        Ok(Some(line))
    }
}

impl Merge {
    /// All that the layers say together, with what they say is gone: one layer that stands for them.
    pub fn lines(self) -> Lines {
        Lines(self)
    }

    fn next_line(&mut self) -> Option<Result<Line, CatalogError>> {
        if self.failed {
            return None;
        }
        self.step().inspect_err(|_| self.failed = true).transpose()
    }
}

impl Iterator for Merge {
    type Item = Result<Entry, CatalogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_line()? {
                Ok(Line::Entry(e)) => return Some(Ok(e)),
                Ok(Line::Gone(_)) => {}
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

/// The lines of several layers as those of one.
#[derive(Debug)]
pub struct Lines(Merge);

impl Iterator for Lines {
    type Item = Result<Line, CatalogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_line()
    }
}

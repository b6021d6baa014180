//! Lists in pages: `?limit=&cursor=`, answered as `{"items": […], "next": "…"}`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{PAGE, PAGE_MAX, Problem};

/// What may be said with every read.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Look {
    /// Answer only with a state that has this revision in it: what one's own change answered as X-Zoneward-Revision.
    pub min_revision: Option<u64>,
}

/// Which part of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Items of one answer, 1 … 1000, 100 if nothing is said.
    pub limit: Option<usize>,
    /// `next` of the page before.
    pub cursor: Option<String>,
    /// Answer only with a state that has this revision in it.
    pub min_revision: Option<u64>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T: ToSchema> {
    pub items: Vec<T>,
    /// The cursor of the next page; `null` with the last one.
    pub next: Option<String>,
}

impl Page {
    /// The items of this page and the next cursor. `from` gives all items after a key, in order, each with its own key.
    pub fn of<K: FromStr + ToString, V, I: Iterator<Item = (K, V)>>(
        &self,
        from: impl FnOnce(Option<K>) -> I,
    ) -> Result<(Vec<V>, Option<String>), Problem> {
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Problem::malformed("limit is out of range").at("limit", format!("1 … {PAGE_MAX}")));
        }
        let parse = |c: &String| {
            c.parse::<K>().map_err(|_| Problem::malformed("cursor is none of ours").at("cursor", "take it from next"))
        };
        let after = self.cursor.as_ref().map(parse).transpose()?;
        let (mut items, mut last) = (Vec::new(), None);
        let mut rest = from(after);
        for (key, value) in rest.by_ref().take(limit) {
            items.push(value);
            last = Some(key);
        }
        let next = last.filter(|_| rest.next().is_some()).map(|k| k.to_string());
        Ok((items, next))
    }

    /// The same of a map, in the order of its keys.
    pub fn of_map<'a, K: FromStr + ToString + Ord + Copy, V>(
        &self,
        map: &'a BTreeMap<K, V>,
    ) -> Result<(Vec<&'a V>, Option<String>), Problem> {
        self.of(|after: Option<K>| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            map.range((from, Bound::Unbounded)).map(|(k, v)| (*k, v))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_everything_once_and_end() {
        let map: BTreeMap<u64, u64> = (0..25).map(|i| (i, i * 10)).collect();
        let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = Page { limit: Some(10), cursor, min_revision: None };
            let (items, next) = page.of_map(&map).unwrap();
            seen.extend(items.into_iter().copied());
            (cursor, pages) = (next, pages + 1);
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((seen, pages), (map.values().copied().collect(), 3));
        let exact = Page { limit: Some(25), ..Page::default() };
        assert_eq!(exact.of_map(&map).unwrap().1, None);
        for bad in [Page { limit: Some(0), ..Page::default() }, Page { limit: Some(PAGE_MAX + 1), ..Page::default() }] {
            assert!(bad.of_map(&map).is_err());
        }
        assert!(Page { cursor: Some("x".into()), ..Page::default() }.of_map(&map).is_err());
    }
}

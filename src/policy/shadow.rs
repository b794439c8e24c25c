//! The section `[upstreams.NAME.shadow]`: what an upstream does not get while it is not the primary of a project.
//!
//! Rule: except for the daily cap, an id gets the same decision on every relay and after every restart. A trace is kept whole or not at
//! all. Items that depend on an event go with it. Clients' own reports always pass.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::protocol::category::{Category, Quantities};
use crate::protocol::item::ItemType;

use super::outcome::DropReason;

pub mod caps;
mod fraction;

use caps::Cap;
use fraction::Fraction;

/// The section `[upstreams.NAME.shadow]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The types of items it gets; all when absent.
    pub items: Option<Vec<ItemType>>,
    /// The fraction of a category it gets: transactions, their profiles and spans by trace, the rest by event.
    pub sample: BTreeMap<Category, Fraction>,
    /// The most of a category it gets in a day (UTC), for all projects together.
    pub daily_cap: BTreeMap<Category, Cap>,
}

/// The ids of a submission.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Its trace, or a substitute.
    pub trace: u128,
    /// Its event, or a substitute.
    pub event: u128,
}

/// An item to decide about.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Its type.
    pub kind: &'a ItemType,
    /// Whether it is its envelope's event, or the event is made from it.
    pub is_event: bool,
    /// Its quantities.
    pub quantities: Quantities,
}

impl Settings {
    /// Whether it leaves nothing out at all.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether deciding about these quantities takes an [`Identity`].
    pub fn samples(&self, quantities: &Quantities) -> bool {
        quantities.iter().any(|(category, _)| self.sample.contains_key(&category))
    }

    /// Whether items of this type and these categories never get through.
    pub fn never_takes(&self, kind: &ItemType, categories: &Quantities) -> bool {
        let is_closed = |category| self.sample.get(&category).is_some_and(|part| part.is_nothing());
        self.filters(kind) || categories.iter().any(|(category, _)| is_closed(category))
    }

    fn filters(&self, kind: &ItemType) -> bool {
        let is_listed = |items: &Vec<ItemType>| items.contains(kind) || *kind == ItemType::ClientReport;
        !self.items.as_ref().is_none_or(is_listed)
    }

    /// The items of a submission that are left out, by position, and why. `take` takes an item's quantities from the daily cap and returns
    /// whether there was enough. It is called for items that are not left out for another reason, events first.
    pub fn left_out(
        &self,
        items: &[Candidate<'_>],
        identity: Identity,
        mut take: impl FnMut(&Quantities) -> bool,
    ) -> Vec<(u16, DropReason)> {
        let mut verdict = |item: &Candidate<'_>| {
            if self.filters(item.kind) {
                return Some(DropReason::Filtered);
            }
            let by_trace = matches!(item.kind, ItemType::Transaction | ItemType::Profile | ItemType::Span);
            let id = if by_trace { identity.trace } else { identity.event };
            let mut parts = item.quantities.iter().filter_map(|(category, _)| self.sample.get(&category));
            if parts.any(|part| !part.has(id)) {
                return Some(DropReason::Sampled);
            }
            (!take(&item.quantities)).then_some(DropReason::Capped)
        };
        let mut verdicts: Vec<Option<DropReason>> = vec![None; items.len()];
        let events = || (0..).zip(items).filter(|(_, item)| item.is_event).map(|(position, _): (usize, _)| position);
        events().for_each(|position| verdicts[position] = verdict(&items[position]));
        // If one of several events gets through, the items that depend on them do as well.
        let goes_alone = events().all(|position| verdicts[position].is_some());
        let shared = events().next().and_then(|first| verdicts[first]).filter(|_| goes_alone);
        for (slot, item) in verdicts.iter_mut().zip(items).filter(|(_, item)| !item.is_event) {
            *slot = shared.filter(|_| item.kind.depends_on_event()).or_else(|| verdict(item));
        }
        (0..).zip(verdicts).filter_map(|(position, why)| Some((position, why?))).collect()
    }
}

/// In words: `only event, transaction; 10% of transaction; at most 5000 error a day`.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = vec![];
        if let Some(items) = &self.items {
            let names: Vec<&str> = items.iter().map(ItemType::name).collect();
            words.push(if names.is_empty() { "no items".to_owned() } else { format!("only {}", names.join(", ")) });
        }
        words.extend(self.sample.iter().map(|(category, part)| format!("{part} of {category}")));
        words.extend(self.daily_cap.iter().map(|(category, cap)| format!("at most {cap} {category} a day")));
        f.write_str(&words.join("; "))
    }
}

#[cfg(test)]
mod tests;

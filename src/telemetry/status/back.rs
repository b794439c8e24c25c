//! The way back: the upstream that was the primary before the last switch.

use super::{Status, SwitchStatus, UpstreamStatus};

impl Status {
    /// The primary before the last switch, unless that switch undid another: where to go when the primary of now fails. `None` if it is
    /// no longer configured.
    pub fn way_back(&self) -> Option<&UpstreamStatus> {
        let name = way_back(&self.switches, &self.primary)?;
        self.upstreams.iter().find(|upstream| upstream.name == name && upstream.role == "shadow")
    }
}

/// The upstream to which a switch back from `primary` leads, by the switches, newest first. A switch that undid another leads nowhere: it
/// was the way back.
pub fn way_back<'a>(switches: &'a [SwitchStatus], primary: &str) -> Option<&'a str> {
    let all = switches.iter().rev().filter(|switch| switch.project.is_none());
    let undone = |last: &SwitchStatus, next: &SwitchStatus| {
        last.from.as_ref() == Some(&next.to) && next.from.as_ref() == Some(&last.to)
    };
    let last = all.fold(None, |last, next| if last.is_some_and(|last| undone(last, next)) { None } else { Some(next) });
    last.filter(|last| last.to == primary)?.from.as_deref()
}

#[cfg(test)]
mod tests {
    use crate::clock::Timestamp;

    use super::*;

    /// Where the way back leads after these switches, oldest first, each of all projects.
    fn after(switches: &[(&str, &str)]) -> Option<String> {
        let switch = |(from, to): &(&str, &str)| SwitchStatus {
            at: Timestamp::default(),
            project: None,
            from: Some((*from).to_owned()),
            to: (*to).to_owned(),
            reason: None,
            author: None,
        };
        let all: Vec<SwitchStatus> = switches.iter().rev().map(switch).collect();
        way_back(&all, switches.last().map_or("a", |(_, to)| to)).map(str::to_owned)
    }

    #[test]
    fn the_way_back_leads_where_the_last_switch_came_from_until_it_is_undone() {
        let (there, back) = (("a", "b"), ("b", "a"));
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[there]).as_deref(), Some("a"));
        assert_eq!(after(&[there, back]), None);
        assert_eq!(after(&[there, back, there]).as_deref(), Some("a"));
        assert_eq!(after(&[there, ("b", "c")]).as_deref(), Some("b"));
        assert_eq!(after(&[there, ("b", "c"), ("c", "b")]), None);
    }

    #[test]
    fn a_switch_of_one_project_opens_no_way_back() {
        let own = SwitchStatus {
            at: Timestamp::default(),
            project: Some("shop".to_owned()),
            from: Some("a".to_owned()),
            to: "b".to_owned(),
            reason: None,
            author: None,
        };
        assert_eq!(way_back(&[own], "b"), None);
    }
}

//! Cycles between files: files that name each other, directly or through others, can only be understood and changed together.
//!
//! A module and the files of its own folder count as one, so a name from a parent is no edge. Neither is a `pub use`: the edge leads to the
//! file that defines the item.

use std::collections::{BTreeMap, BTreeSet};

use super::report;
use super::source::{Source, sources};

#[test]
fn no_files_name_each_other_in_a_cycle() {
    let sources: Vec<Source> = sources().into_iter().filter(|source| !source.is_test()).collect();
    let house = House::of(&sources);
    let arrows: BTreeMap<&str, BTreeSet<&str>> = house.files.keys().map(|file| (*file, house.arrows(file))).collect();
    let mut told = BTreeSet::new();
    let mut broken = Vec::new();
    for (file, named) in &arrows {
        for other in named {
            let pair = [*file.min(other), *file.max(other)];
            if reaches(&arrows, other, file) && told.insert(pair) {
                broken.push(format!("src/{file}.rs:1: names {other}, which leads back here: move down what both need"));
            }
        }
    }
    report(&broken);
}

/// Whether a path of edges leads from one file to another.
fn reaches(arrows: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
    while let Some(file) = next.pop() {
        if file == to {
            return true;
        }
        next.extend(arrows.get(file).into_iter().flatten().filter(|file| seen.insert(**file)));
    }
    false
}

/// All files by module, and their re-exports.
struct House<'a> {
    files: BTreeMap<&'a str, &'a Source>,
    /// The path of a re-export, by module and name.
    handed_on: BTreeMap<(&'a str, String), Vec<String>>,
}

impl<'a> House<'a> {
    fn of(sources: &'a [Source]) -> Self {
        let files: BTreeMap<&str, &Source> = sources.iter().map(|source| (source.module(), source)).collect();
        let mut house = Self { files, handed_on: BTreeMap::new() };
        for source in sources {
            for named in source.named().into_iter().filter(|named| named.is_handed_on) {
                let path = house.absolute(source, named.segments);
                if let Some(name) = path.last().cloned() {
                    house.handed_on.insert((source.module(), name), path);
                }
            }
        }
        house
    }

    /// The files that a file names, without itself and its parents.
    fn arrows(&self, file: &str) -> BTreeSet<&'a str> {
        let Some(source) = self.files.get(file) else { return BTreeSet::new() };
        let named = source.named().into_iter().filter(|named| !named.is_handed_on);
        let targets = named.filter_map(|named| self.file_of(self.absolute(source, named.segments)));
        let is_above = |target: &str| file == target || file.starts_with(&format!("{target}/"));
        targets.filter(|target| !is_above(target)).collect()
    }

    /// The path from the crate's root, without `crate`; empty for a path into another crate.
    fn absolute(&self, source: &Source, path: Vec<String>) -> Vec<String> {
        let module: Vec<String> = source.module().split('/').map(str::to_owned).collect();
        let supers = path.iter().take_while(|segment| *segment == "super").count();
        match path.first().map(String::as_str) {
            Some("crate") => path.into_iter().skip(1).collect(),
            Some("super") => module
                .iter()
                .take(module.len().saturating_sub(supers))
                .cloned()
                .chain(path.into_iter().skip(supers))
                .collect(),
            Some("self") => module.into_iter().chain(path.into_iter().skip(1)).collect(),
            Some(child)
                if path.len() > 1 && self.files.contains_key(format!("{}/{child}", source.module()).as_str()) =>
            {
                module.into_iter().chain(path).collect()
            }
            _ => vec![],
        }
    }

    /// The file that defines a path's item: the longest prefix that is a file, after re-exports are followed; `None` when there is none.
    fn file_of(&self, mut path: Vec<String>) -> Option<&'a str> {
        // No item is re-exported more often.
        for _ in 0..8 {
            let length =
                (1..=path.len()).rev().find(|length| self.files.contains_key(path[..*length].join("/").as_str()))?;
            let (file, _) = self.files.get_key_value(path[..length].join("/").as_str())?;
            let Some(from) = path.get(length).and_then(|name| self.handed_on.get(&(*file, name.clone()))) else {
                return Some(file);
            };
            path = from.iter().chain(&path[length + 1..]).cloned().collect();
        }
        None
    }
}

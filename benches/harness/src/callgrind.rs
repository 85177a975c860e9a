//! The counts that callgrind writes, and the difference of two of them.
//!
//! Reads the profile format of valgrind's manual ("Callgrind Format Specification"): positions by
//! line, one event (instructions), names compressed to numbers.

use std::{collections::HashMap, fs, path::Path};

use crate::Result;

/// Instructions, by what they are counted for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Profile {
    pub total: f64,
    /// By function, its own only.
    pub own: HashMap<String, f64>,
    /// By function, with all that it calls.
    pub inclusive: HashMap<String, f64>,
    /// By source file, inlined code under the file it was written in.
    pub file: HashMap<String, f64>,
}

impl Profile {
    /// Reads a file that callgrind wrote.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path)?;
        let profile = Parser::default().parse(&String::from_utf8_lossy(&bytes));
        if profile.total == 0.0 {
            return Err(format!("{}: no counts in it", path.display()).into());
        }
        Ok(profile)
    }

    /// What one of `calls` more costs, `base` being the counts without them.
    pub(crate) fn per_call(&self, base: &Self, calls: f64) -> Self {
        let less = |more: &HashMap<String, f64>, base: &HashMap<String, f64>| {
            let one = |(name, cost): (&String, &f64)| {
                let rest = cost - base.get(name).copied().unwrap_or(0.0);
                (name.clone(), rest / calls)
            };
            more.iter().map(one).collect()
        };
        Self {
            total: (self.total - base.total) / calls,
            own: less(&self.own, &base.own),
            inclusive: less(&self.inclusive, &base.inclusive),
            file: less(&self.file, &base.file),
        }
    }
}

/// The `n` dearest, dearest first.
pub(crate) fn top(costs: &HashMap<String, f64>, n: usize) -> Vec<(&str, f64)> {
    let mut all: Vec<_> = costs
        .iter()
        .map(|(name, cost)| (name.as_str(), *cost))
        .collect();
    all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    all.truncate(n);
    all
}

/// Adds up what `name` maps to the same word.
pub(crate) fn grouped(
    costs: &HashMap<String, f64>,
    name: impl Fn(&str) -> String,
) -> HashMap<String, f64> {
    costs.iter().fold(HashMap::new(), |mut sums, (of, cost)| {
        *sums.entry(name(of)).or_default() += cost;
        sums
    })
}

/// `crate path` of a source file: `hyper src/proto/h1/role.rs`.
pub(crate) fn module(file: &str) -> String {
    if let Some((_, path)) = file.split_once("/registry/src/") {
        let path = path.split_once('/').map_or(path, |(_, path)| path);
        let (package, path) = path.split_once('/').unwrap_or((path, ""));
        let name = package.rsplit_once('-').map_or(package, |(name, _)| name);
        return format!("{name} {path}");
    }
    if let Some((_, path)) = file.split_once("/library/") {
        return path.replacen('/', " ", 1);
    }
    let is_rust = Path::new(file).extension().is_some_and(|e| e == "rs");
    match file.rfind("src/").and_then(|at| file.get(at..)) {
        Some(path) if is_rust => format!("outrigger {path}"),
        _ => format!("libc {file}"),
    }
}

#[derive(Default)]
struct Parser {
    files: HashMap<String, String>,
    functions: HashMap<String, String>,
    file: String,
    function: String,
    callee: String,
    /// The next line is the cost of a call.
    in_call: bool,
    profile: Profile,
}

impl Parser {
    fn parse(mut self, text: &str) -> Profile {
        for line in text.lines() {
            match line.split_once('=') {
                Some(("fn", name)) => self.function = resolve(&mut self.functions, name),
                Some(("cfn", name)) => self.callee = resolve(&mut self.functions, name),
                Some(("fl" | "fi" | "fe", name)) => self.file = resolve(&mut self.files, name),
                Some(("cfi" | "cfl", name)) => drop(resolve(&mut self.files, name)),
                Some(("calls", _)) => self.in_call = true,
                Some(_) => {}
                None => self.cost(line),
            }
        }
        self.profile
    }

    fn cost(&mut self, line: &str) {
        let is_position = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '*');
        let mut words = line.split_whitespace();
        if !words.next().is_some_and(|w| w.starts_with(is_position)) {
            return;
        }
        let cost = words.next().and_then(|w| w.parse().ok()).unwrap_or(0.0);
        let was_call = std::mem::take(&mut self.in_call);
        // A call of itself is in the outer one's cost already.
        if !was_call || self.callee != self.function {
            *self
                .profile
                .inclusive
                .entry(self.function.clone())
                .or_default() += cost;
        }
        if !was_call {
            self.profile.total += cost;
            *self.profile.own.entry(self.function.clone()).or_default() += cost;
            *self.profile.file.entry(self.source()).or_default() += cost;
        }
    }
}

impl Parser {
    /// The file of the line; without line tables only the crate is known, from the function.
    fn source(&self) -> String {
        if self.file != "???" {
            return self.file.clone();
        }
        let name = self.function.trim_start_matches(['<', '&', '*']);
        match name.split_once("::") {
            Some((package, _)) => format!("/registry/src/-/{package}-/???"),
            None => self.file.clone(),
        }
    }
}

/// `(1) name` gives the number a name, `(1)` alone has it already.
fn resolve(names: &mut HashMap<String, String>, word: &str) -> String {
    let Some((number, name)) = word.split_once(')') else {
        return word.to_owned();
    };
    let name = name.trim();
    if name.is_empty() {
        return names.get(number).cloned().unwrap_or_default();
    }
    names.insert(number.to_owned(), name.to_owned());
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "version: 1\nevents: Ir\n\nob=(1) /bin/x\nfl=(1) src/a.rs\nfn=(1) outer\n1 10\nfi=(2) src/b.rs\n+1 5\nfe=(1)\ncfn=(2) inner\ncalls=3 7\n* 60\n\nfl=(2)\nfn=(2)\n7 60\n\nsummary: 75\n";

    #[test]
    fn own_inclusive_and_file_costs() {
        let profile = Parser::default().parse(TEXT);
        assert!((profile.total - 75.0).abs() < f64::EPSILON);
        assert_eq!(top(&profile.own, 9), [("inner", 60.0), ("outer", 15.0)]);
        assert_eq!(
            top(&profile.inclusive, 9),
            [("outer", 75.0), ("inner", 60.0)]
        );
        assert_eq!(top(&profile.file, 1), [("src/b.rs", 65.0)]);
        let half = profile.per_call(&Profile::default(), 2.0);
        assert_eq!(top(&half.own, 1), [("inner", 30.0)]);
    }

    #[test]
    fn files_are_named_by_their_crate() {
        assert_eq!(
            module("/a/registry/src/x-1/hyper-1.12.0/src/body.rs"),
            "hyper src/body.rs"
        );
        assert_eq!(
            module("/rustc/0abc/library/core/src/str.rs"),
            "core src/str.rs"
        );
        assert_eq!(
            module("/home/me/outrigger/src/layer/retry.rs"),
            "outrigger src/layer/retry.rs"
        );
        assert_eq!(module("./malloc/malloc.c"), "libc ./malloc/malloc.c");
        assert_eq!(module("???"), "libc ???");
    }
}

//! How much of the memory that the process may have callers may take: for the bodies of requests, and for connections.
//!
//! Contract:
//!
//! 1. The bodies of all requests may take a quarter of the container's limit, at least 10 MiB and at most 256 MiB, which it is
//!    where there is no limit: callers together cannot have the container killed for memory by the bodies that they send.
//!    They are refused with 503 before.
//! 2. A listener that takes larger bodies than that is warned of: such a body is refused whenever it comes.
//! 3. All listeners together take as many connections as another quarter has room for at 16 KiB each, at least 500 and at most
//!    10,000; heads that have not ended may take a quarter of that quarter besides. What an answer holds on its way is not
//!    in here.
//! 4. The limit is the least one on the way from the process's control group to the root, of either version. It is read
//!    once, at the start.

use std::fs;
use std::path::Path;

use crate::config::model::Listener;

/// The most, also where memory is plenty.
const MOST: u64 = 256 << 20;
/// The least, in however small a container: one body of the default `maxBodyBytes`.
const LEAST: u64 = 10 << 20;
/// What part of the limit it is.
const PART: u64 = 4;

/// What one connection takes that has nothing but a small head.
const CONNECTION: u64 = 16 << 10;

/// What callers may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes of the bodies of all requests at once.
    pub(super) request_bytes: usize,
    /// Connections.
    pub(super) connections: usize,
    /// Bytes of heads that have not ended, beyond the first of each.
    pub(super) unfinished_heads: usize,
}

impl Room {
    /// What there is in this process's control group.
    pub(super) fn here() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::within(limit(&groups, |file| fs::read_to_string(file).ok()))
    }

    fn within(limit: Option<u64>) -> Self {
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let part = limit.map_or(u64::MAX, |limit| limit / PART);
        Self {
            request_bytes: number(part.clamp(LEAST, MOST)),
            connections: number((part / CONNECTION).clamp(500, 10_000)),
            unfinished_heads: number((part / PART).clamp(1 << 20, 16 << 20)),
        }
    }

    /// The part of one listener of so many.
    pub(super) fn of_one(self, listeners: usize) -> Self {
        let listeners = listeners.max(1);
        Self {
            connections: (self.connections / listeners).max(1),
            unfinished_heads: self.unfinished_heads / listeners,
            ..self
        }
    }
}

/// The listeners that take bodies for which there will never be room.
pub(super) fn too_large(listeners: &[Listener], bytes: usize) -> impl Iterator<Item = &Listener> {
    listeners
        .iter()
        .filter(move |listener| listener.max_body_bytes > bytes)
}

/// The limit in force for whoever is in these groups, which are as in `/proc/self/cgroup`.
fn limit(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, file) = if controllers.is_empty() {
            (Path::new("/sys/fs/cgroup"), "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
        } else {
            return None;
        };
        // Some containers see the path that their group has on the host, and no folder of that name: then the root is theirs.
        let own = root.join(path.trim_start_matches('/'));
        own.ancestors()
            .take_while(|folder| folder.starts_with(root))
            .filter_map(|folder| read(&folder.join(file)))
            // `max` is no limit.
            .filter_map(|text| text.trim().parse::<u64>().ok())
            .min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MI: u64 = 1 << 20;

    /// The limit for these groups where a control group file system has these files.
    fn limit_of(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        limit(groups, |file| {
            let found = files
                .iter()
                .find(|(path, _)| Path::new("/sys/fs/cgroup").join(path) == file);
            found.map(|(_, content)| (*content).to_owned())
        })
    }

    #[test]
    fn rule_1_a_quarter_within_bounds() {
        let mib = |limit: Option<u64>| Room::within(limit).request_bytes as u64 / MI;
        assert_eq!(mib(Some(128 * MI)), 32);
        assert_eq!(mib(Some(24 * MI)), 10);
        assert_eq!(mib(Some(64 << 30)), 256);
        // What the first version of control groups says for none.
        assert_eq!(mib(Some(0x7fff_ffff_ffff_f000)), 256);
        assert_eq!(mib(None), 256);
    }

    #[test]
    fn rule_2_a_listener_with_larger_bodies_is_told() {
        let listener = |max_body_bytes| Listener {
            max_body_bytes,
            ..Listener::new(([127, 0, 0, 1], 0).into())
        };
        let listeners = [listener(100), listener(101)];
        let told = too_large(&listeners, 100).map(|listener| listener.max_body_bytes);
        assert_eq!(told.collect::<Vec<_>>(), [101]);
    }

    #[test]
    fn rule_3_connections_have_a_quarter_within_bounds() {
        let connections = |limit: Option<u64>| Room::within(limit).connections;
        assert_eq!(connections(Some(128 * MI)), 2048);
        assert_eq!(connections(Some(512 * MI)), 8192);
        assert_eq!(connections(Some(16 * MI)), 500);
        assert_eq!(connections(Some(64 << 30)), 10_000);
        assert_eq!(connections(None), 10_000);
    }

    #[test]
    fn rules_1_and_3_all_of_it_is_less_than_the_limit() {
        // Of any size that our charts or anybody would give; 12 MiB are what the process takes at rest.
        for mib in [32, 64, 128, 512, 4096] {
            for listeners in [1, 2, 3] {
                let room = Room::within(Some(mib * MI));
                let one = room.of_one(listeners);
                let each = one.connections * 16 * 1024 + one.unfinished_heads;
                let all = room.request_bytes + listeners * each + (12 << 20);
                assert!(all as u64 <= mib * MI, "{mib} MiB, {listeners}: {all}");
            }
        }
    }

    #[test]
    fn rule_4_the_least_limit_on_the_way_to_the_root() {
        let files = [
            ("pods/memory.max", "134217728\n"),
            ("pods/one/memory.max", "268435456\n"),
            ("pods/one/child/memory.max", "max\n"),
        ];
        assert_eq!(limit_of("0::/pods/one/child\n", &files), Some(128 * MI));
        assert_eq!(limit_of("0::/pods/one\n", &files), Some(128 * MI));
        assert_eq!(limit_of("0::/elsewhere\n", &files), None);
    }

    #[test]
    fn rule_4_a_container_sees_its_own_group_as_the_root() {
        let files = [("memory.max", "134217728\n")];
        assert_eq!(limit_of("0::/\n", &files), Some(128 * MI));
        assert_eq!(limit_of("0::/kubepods/pod1/2\n", &files), Some(128 * MI));
    }

    #[test]
    fn rule_4_the_first_version_of_control_groups() {
        let groups = "12:cpu,cpuacct:/docker/1\n5:hugetlb,memory:/docker/1\n0::/\n";
        for file in [
            "memory/docker/1/memory.limit_in_bytes",
            "memory/memory.limit_in_bytes",
        ] {
            assert_eq!(
                limit_of(groups, &[(file, "67108864\n")]),
                Some(64 * MI),
                "{file}"
            );
        }
    }

    #[test]
    fn rule_4_what_cannot_be_read_is_no_limit() {
        for groups in ["", "nonsense", "0:", "0::/\n", "0::/../..\n"] {
            assert_eq!(
                limit_of(groups, &[("memory.max", "much\n")]),
                None,
                "{groups:?}"
            );
        }
    }
}

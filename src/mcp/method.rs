//! Every method of every revision, as one table.
//!
//! Sources: the schema files of the five revisions (client and server unions). A method that is not in the table is
//! passed on as it came; only what we must judge (retry, cache, policy, headers) needs to know a method.

use std::fmt;

use crate::mcp::revision::Revision;

/// What a method is to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// Opens, probes or closes: `initialize`, `ping`, `server/discover`, `logging/setLevel`, …
    Control,
    /// Lists what there is; the answer has pages.
    List,
    /// Reads something, without effect.
    Read,
    /// May have effects: `tools/call`, and what is asked of a client.
    Call,
    /// Opens a stream that lives until somebody ends it: `subscriptions/listen`.
    Listen,
    /// Has no answer.
    Notification,
}

/// Where in `params` the thing stands that a request is about, which `Mcp-Name` repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NamedBy {
    /// `params.name`.
    Name,
    /// `params.uri`.
    Uri,
    /// `params.taskId`.
    TaskId,
}

macro_rules! methods {
    ($($variant:ident $name:literal $class:ident $since:ident..$until:ident $flags:tt;)*) => {
        /// A method of the specification.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Method {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl Method {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The method of that name.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Its name on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What it is to a proxy.
            #[must_use]
            pub fn class(self) -> Class {
                match self {
                    $(Self::$variant => Class::$class,)*
                }
            }

            /// The first revision that has it.
            #[must_use]
            pub fn since(self) -> Revision {
                match self {
                    $(Self::$variant => Revision::$since,)*
                }
            }

            /// The last revision that has it.
            #[must_use]
            pub fn until(self) -> Revision {
                match self {
                    $(Self::$variant => Revision::$until,)*
                }
            }

            /// Whether its complete result carries `ttlMs` and `cacheScope` (2026-07-28, server/utilities/caching).
            #[must_use]
            pub fn is_cacheable(self) -> bool {
                match self {
                    $(Self::$variant => methods!(@cacheable $flags),)*
                }
            }

            /// Whether repeating it cannot repeat an effect, so that it may be sent again although the first try
            /// may have been executed.
            #[must_use]
            pub fn is_safe_to_repeat(self) -> bool {
                match self {
                    $(Self::$variant => methods!(@safe $flags),)*
                }
            }
        }
    };
    (@cacheable [cacheable]) => { true };
    (@cacheable $other:tt) => { false };
    (@safe [cacheable]) => { true };
    (@safe [safe]) => { true };
    (@safe $other:tt) => { false };
}

methods! {
    Initialize "initialize" Control V2024_11_05..V2025_11_25 [];
    Ping "ping" Control V2024_11_05..V2025_11_25 [safe];
    Discover "server/discover" Control V2026_07_28..V2026_07_28 [cacheable];
    SetLevel "logging/setLevel" Control V2024_11_05..V2025_11_25 [];
    ResourcesSubscribe "resources/subscribe" Control V2024_11_05..V2025_11_25 [];
    ResourcesUnsubscribe "resources/unsubscribe" Control V2024_11_05..V2025_11_25 [];
    ToolsList "tools/list" List V2024_11_05..V2026_07_28 [cacheable];
    ToolsCall "tools/call" Call V2024_11_05..V2026_07_28 [];
    ResourcesList "resources/list" List V2024_11_05..V2026_07_28 [cacheable];
    ResourcesTemplatesList "resources/templates/list" List V2024_11_05..V2026_07_28 [cacheable];
    ResourcesRead "resources/read" Read V2024_11_05..V2026_07_28 [cacheable];
    PromptsList "prompts/list" List V2024_11_05..V2026_07_28 [cacheable];
    PromptsGet "prompts/get" Read V2024_11_05..V2026_07_28 [safe];
    Complete "completion/complete" Read V2024_11_05..V2026_07_28 [safe];
    Listen "subscriptions/listen" Listen V2026_07_28..V2026_07_28 [safe];
    TasksGet "tasks/get" Read V2025_11_25..V2026_07_28 [];
    TasksResult "tasks/result" Read V2025_11_25..V2025_11_25 [];
    TasksList "tasks/list" List V2025_11_25..V2025_11_25 [safe];
    TasksCancel "tasks/cancel" Call V2025_11_25..V2026_07_28 [];
    TasksUpdate "tasks/update" Call V2026_07_28..V2026_07_28 [];
    CreateMessage "sampling/createMessage" Call V2024_11_05..V2025_11_25 [];
    RootsList "roots/list" Call V2024_11_05..V2025_11_25 [];
    ElicitationCreate "elicitation/create" Call V2025_06_18..V2025_11_25 [];
    Initialized "notifications/initialized" Notification V2024_11_05..V2025_11_25 [];
    Cancelled "notifications/cancelled" Notification V2024_11_05..V2026_07_28 [];
    Progress "notifications/progress" Notification V2024_11_05..V2026_07_28 [];
    LogMessage "notifications/message" Notification V2024_11_05..V2026_07_28 [];
    RootsListChanged "notifications/roots/list_changed" Notification V2024_11_05..V2025_11_25 [];
    ResourcesUpdated "notifications/resources/updated" Notification V2024_11_05..V2026_07_28 [];
    ResourcesListChanged "notifications/resources/list_changed" Notification V2024_11_05..V2026_07_28 [];
    ToolsListChanged "notifications/tools/list_changed" Notification V2024_11_05..V2026_07_28 [];
    PromptsListChanged "notifications/prompts/list_changed" Notification V2024_11_05..V2026_07_28 [];
    SubscriptionsAcknowledged "notifications/subscriptions/acknowledged" Notification V2026_07_28..V2026_07_28 [];
    ElicitationComplete "notifications/elicitation/complete" Notification V2025_11_25..V2025_11_25 [];
    TasksStatus "notifications/tasks/status" Notification V2025_11_25..V2025_11_25 [];
    TasksChanged "notifications/tasks" Notification V2026_07_28..V2026_07_28 [];
}

impl Method {
    /// Whether `revision` has it.
    #[must_use]
    pub fn exists_in(self, revision: Revision) -> bool {
        (self.since()..=self.until()).contains(&revision)
    }

    /// Where its subject stands, if it has one that 2026-07-28 mirrors in `Mcp-Name`.
    #[must_use]
    pub fn named_by(self) -> Option<NamedBy> {
        match self {
            Self::ToolsCall | Self::PromptsGet => Some(NamedBy::Name),
            Self::ResourcesRead => Some(NamedBy::Uri),
            Self::TasksGet | Self::TasksUpdate | Self::TasksCancel => Some(NamedBy::TaskId),
            _ => None,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_methods_are_one_to_one() {
        for &method in Method::ALL {
            assert_eq!(Method::parse(method.as_str()), Some(method));
            assert!(method.since() <= method.until());
        }
        assert_eq!(Method::parse("tools/Call"), None);
    }

    #[test]
    fn the_six_cacheable_methods_are_those_of_the_specification() {
        let cacheable: Vec<_> = Method::ALL
            .iter()
            .filter(|m| m.is_cacheable())
            .map(|m| m.as_str())
            .collect();
        assert_eq!(
            cacheable,
            [
                "server/discover",
                "tools/list",
                "resources/list",
                "resources/templates/list",
                "resources/read",
                "prompts/list"
            ]
        );
    }

    #[test]
    fn a_tool_call_is_never_safe_to_repeat() {
        assert!(!Method::ToolsCall.is_safe_to_repeat());
        assert!(Method::ToolsList.is_safe_to_repeat());
        assert!(!Method::Initialize.is_safe_to_repeat());
    }

    #[test]
    fn removed_methods_are_not_modern() {
        for method in [
            Method::Ping,
            Method::SetLevel,
            Method::ResourcesSubscribe,
            Method::Initialize,
        ] {
            assert!(!method.exists_in(Revision::V2026_07_28));
            assert!(method.exists_in(Revision::V2025_11_25));
        }
    }
}

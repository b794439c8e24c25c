//! Closed vocabularies: the words of metrics, journal, status and API. Each word is declared once, as a value with its name.
//!
//! Rule: code that depends on a value is a `match` without a wildcard, so that the compiler names each place that a new value needs.

/// Declares an enum of values with names. It derives the list of values, the name of each value, the value of a name, and printing and
/// serializing by name.
macro_rules! vocabulary {
    ($(#[$of:meta])* $vis:vis enum $Words:ident { $($(#[$each:meta])* $Word:ident = $name:literal,)+ }) => {
        $(#[$of])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        $vis enum $Words {
            $($(#[$each])* $Word,)+
        }

        impl $Words {
            /// Every value, in the order of definition.
            $vis const ALL: [Self; [$($name),+].len()] = [$(Self::$Word),+];

            /// The name in labels, in the journal, in JSON and on the wire.
            $vis const fn name(self) -> &'static str {
                match self {
                    $(Self::$Word => $name,)+
                }
            }

            /// The value with this name.
            $vis fn from_name(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|own| own.name() == name)
            }
        }

        impl std::fmt::Display for $Words {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl serde::Serialize for $Words {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    };
}

pub(crate) use vocabulary;

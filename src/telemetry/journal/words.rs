//! How the rows of the table of kinds are read.

/// How the ordinary log shows a field: as it is, without quotes, or not at all because the sentence
/// says it.
macro_rules! logged {
    ($field:ident) => {
        $field
    };
    ($field:ident bare) => {
        tracing::field::display($field)
    };
    ($field:ident said) => {
        tracing::field::Empty
    };
}

macro_rules! level_name {
    (INFO) => {
        "info"
    };
    (WARN) => {
        "warn"
    };
    (ERROR) => {
        "error"
    };
}

/// One row a kind: code, variant, name, level, the log's module, fields, the sentence.
macro_rules! notables {
    ($(
        $(#[$about:meta])*
        $code:literal $variant:ident $name:literal $level:ident $target:literal
        { $($(#[$field_about:meta])* $field:ident: $type:ty $(= $shown:ident)?),* $(,)? }
        $sentence:literal
    )*) => {
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub enum Notable<'a> {
            $($(#[$about])* $variant { $($(#[$field_about])* $field: $type),* },)*
        }

        /// All kinds, by their codes.
        pub const KINDS: &[Kind] = &[
            $(Kind {
                code: $code,
                name: $name,
                level: level_name!($level),
                fields: &[$(stringify!($field)),*],
            },)*
        ];

        impl Notable<'_> {
            pub fn kind(&self) -> Kind {
                match *self {
                    $(Self::$variant { .. } => Kind {
                        code: $code,
                        name: $name,
                        level: level_name!($level),
                        fields: &[$(stringify!($field)),*],
                    },)*
                }
            }

            /// The sentence for people.
            #[allow(unused_variables, reason = "not every sentence says every field")]
            pub(super) fn sentence(&self) -> String {
                match *self {
                    $(Self::$variant { $($field),* } => format!($sentence),)*
                }
            }

            /// The fields that have a value.
            pub(super) fn fields(&self) -> Map<String, Value> {
                let mut fields = Map::new();
                match *self {
                    $(Self::$variant { $($field),* } => {
                        $(put(&mut fields, stringify!($field), $field.into());)*
                    })*
                }
                fields
            }

            /// Writes it to the ordinary log.
            pub(super) fn log(&self) {
                match *self {
                    $(Self::$variant { $($field),* } => {
                        $(let $field = $field.bounded();)*
                        tracing::event!(
                            target: $target,
                            tracing::Level::$level,
                            code = $code,
                            $($field = logged!($field $($shown)?),)*
                            $sentence
                        );
                    })*
                }
            }
        }
    };
}

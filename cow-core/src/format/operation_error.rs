//! The errors of the operations on images: one small enum each, with the storage's own error in it.

/// Declares an error enum of an operation: its own variants, and those that several share.
macro_rules! operation_error {
    (
        $(#[$doc:meta])* $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident $({ $($(#[$field_doc:meta])* $field:ident: $type:ty),* })?
                => $format:literal,)*
        }
        $($shared:ident)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[non_exhaustive]
        pub enum $name<E> {
            $($(#[$variant_doc])* $variant $({ $($(#[$field_doc])* $field: $type),* })?,)*
            /// The medium failed.
            Storage(E),
        }

        impl<E> ::core::fmt::Display for $name<E> {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                match self {
                    $(Self::$variant $({ $($field),* })? => write!(f, $format),)*
                    Self::Storage(_) => f.write_str("the storage failed"),
                }
            }
        }

        impl<E: ::core::error::Error + 'static> ::core::error::Error for $name<E> {
            fn source(&self) -> Option<&(dyn ::core::error::Error + 'static)> {
                match self {
                    Self::Storage(error) => Some(error),
                    _ => None,
                }
            }
        }
    };
}

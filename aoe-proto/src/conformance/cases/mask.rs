//! The MAC mask list. `[AoE 7.1]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Mask, id, severity, section)
}

pub(super) const CASES: &[Case] = &[
    case("mask.read", Must, "AoE 7.1")
        .shows("the list can be read")
        .otherwise("nobody can tell who is admitted")
        .steps(&[ask(mask_read(), &[plain().with(&[Check::Bits { at: 26, mask: 0xff, is: 0 }])])]),
    case("mask.silence", Must, "AoE 7.1")
        .shows("with a list, requests of others are dropped silently, of members they are answered")
        .otherwise("the only access control of the protocol does not work")
        .needs(Needs::MASK.and(Needs::SECOND_MAC))
        .steps(&[
            ask(query().from(Who::Second), &[plain()]),
            ask(
                mask_edit(&[(ADD, Who::Own)]),
                &[plain().with(&[Check::MaskList(Group::Of(&[Who::Own]))])],
            ),
            ask(query(), &[plain()]),
            silent(query().from(Who::Second)),
            silent(identify().from(Who::Second)),
        ]),
    case("mask.add-delete", Must, "AoE 7.1")
        .shows("three members can be added, and one of them deleted")
        .otherwise("vblade 25 overwrites the second entry, and ends when one is deleted")
        .needs(Needs::MASK)
        .steps(&[
            ask(
                mask_edit(&[(ADD, Who::Own), (ADD, Who::Stranger(1)), (ADD, Who::Stranger(2))]),
                &[plain()],
            ),
            ask(
                mask_read(),
                &[plain().with(&[Check::MaskList(Group::Of(&[
                    Who::Own,
                    Who::Stranger(1),
                    Who::Stranger(2),
                ]))])],
            ),
            ask(mask_edit(&[(DELETE, Who::Stranger(1))]), &[plain()]),
            ask(
                mask_read(),
                &[plain().with(&[Check::MaskList(Group::Of(&[Who::Own, Who::Stranger(2)]))])],
            ),
        ]),
    case("mask.count-beyond-frame", Must, "AoE 7.1")
        .shows("more directives than the frame holds are refused, and none is executed")
        .otherwise("old memory of the target is executed as directives")
        .needs(Needs::MASK)
        .steps(&[
            ask(
                mask_edit(&[(ADD, Who::Own), (ADD, Who::Stranger(1))]).claims(40),
                &[error(code::ARGUMENT)],
            ),
            ask(mask_read(), &[plain().with(&[Check::MaskList(Group::Of(&[]))])]),
        ]),
];

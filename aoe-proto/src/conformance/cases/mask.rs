//! The MAC mask list. `[AoE 7.1]`

use crate::conformance::prelude::*;

const fn case(id: &'static str, severity: Severity, section: &'static str) -> Case {
    Case::new(Topic::Mask, id, severity, section)
}

const NO_FAULT: &[Check] = &[Check::Bits { at: 26, mask: 0xff, is: 0 }];

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
    case("mask.delete", Must, "AoE 7.1")
        .shows("a member can be deleted, and the target lives on")
        .otherwise("vblade 25 ends: one edit of anybody takes the disk from everybody")
        .needs(Needs::MASK)
        .steps(&[
            ask(mask_edit(&[(ADD, Who::Own), (ADD, Who::Stranger(1))]), &[plain()]),
            ask(
                mask_edit(&[(DELETE, Who::Stranger(1))]),
                &[plain().with(&[Check::MaskList(Group::Of(&[Who::Own]))])],
            ),
            ask(query(), &[plain()]),
        ]),
    case("mask.add-delete", Must, "AoE 7.1")
        .shows("three members can be added, and one of them deleted")
        .otherwise("vblade 25 overwrites the second entry: a member is shut out")
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
    case("mask.add.again", Must, "AoE 7.1")
        .shows("adding a member again, or deleting a stranger, succeeds and changes nothing")
        .otherwise("an edit whose answer was lost fails when it is sent again")
        .needs(Needs::MASK)
        .steps(&[
            ask(mask_edit(&[(ADD, Who::Own)]), &[plain()]),
            ask(mask_edit(&[(ADD, Who::Own)]), &[plain().with(NO_FAULT)]),
            ask(mask_edit(&[(DELETE, Who::Stranger(9))]), &[plain().with(NO_FAULT)]),
            ask(mask_read(), &[plain().with(&[Check::MaskList(Group::Of(&[Who::Own]))])]),
        ]),
    case("mask.unknown-mcmd", Must, "AoE 7.1")
        .shows("an unknown MCmd is refused with error 2, and changes nothing")
        .otherwise("a later command is taken for an edit")
        .needs(Needs::MASK)
        .steps(&[
            ask(mask(2, Directives::Each(&[(ADD, Who::Own)])), &[error(code::ARGUMENT)]),
            ask(mask_read(), &[plain().with(&[Check::MaskList(Group::Of(&[]))])]),
        ]),
    case("mask.unknown-dcmd", Should, "AoE 7.1")
        .shows("an unknown directive stops the edit: MError 2, how many were done, those stay")
        .otherwise("a tool cannot tell how far its edit went")
        .needs(Needs::MASK)
        .steps(&[
            ask(
                mask_edit(&[(ADD, Who::Own), (9, Who::Stranger(1)), (ADD, Who::Stranger(2))]),
                &[plain().with(&[
                    Check::Bits { at: 26, mask: 0xff, is: 2 },
                    Check::Bits { at: 27, mask: 0xff, is: 1 },
                ])],
            ),
            ask(mask_read(), &[plain().with(&[Check::MaskList(Group::Of(&[Who::Own]))])]),
        ]),
    case("mask.no-directive", Should, "AoE 7.1")
        .shows("a directive of 0 does nothing and succeeds")
        .otherwise("tools that leave unused directives in their frames fail")
        .needs(Needs::MASK)
        .steps(&[ask(
            mask_edit(&[(0, Who::Stranger(1)), (ADD, Who::Own)]),
            &[plain().with(&[
                Check::Bits { at: 26, mask: 0xff, is: 0 },
                Check::MaskList(Group::Of(&[Who::Own])),
            ])],
        )]),
    case("mask.in-order", Should, "AoE 7.1")
        .shows("directives are executed in order")
        .otherwise("an edit that replaces a member leaves none")
        .needs(Needs::MASK)
        .steps(&[
            ask(
                mask_edit(&[(ADD, Who::Own), (DELETE, Who::Stranger(1)), (ADD, Who::Stranger(1))]),
                &[plain()],
            ),
            ask(
                mask_read(),
                &[plain().with(&[Check::MaskList(Group::Of(&[Who::Own, Who::Stranger(1)]))])],
            ),
        ]),
    case("mask.request-merror", Should, "AoE 7.1")
        .shows("the MError of a request is ignored, and does not come back")
        .otherwise("a successful edit looks like a failed one")
        .steps(&[ask(
            Stimulus::new(
                2,
                Argument::Mask(Mask {
                    mcmd: 0,
                    merror: 3,
                    claims: None,
                    directives: Directives::Each(&[]),
                }),
            ),
            &[plain().with(NO_FAULT)],
        )]),
    case("mask.reserved", Should, "AoE 7.1")
        .shows("the reserved byte of an answer is 0")
        .otherwise("a later protocol that gives the byte a meaning cannot be told apart")
        .steps(&[ask(mask_read(), &[plain().with(&[Check::Bits { at: 24, mask: 0xff, is: 0 }])])]),
    case("mask.entries", Should, "AoE 7.1")
        .shows("in the list that is returned every directive is 0")
        .otherwise("a tool that sends the list back edits it")
        .needs(Needs::MASK)
        .steps(&[ask(
            mask_edit(&[(ADD, Who::Own)]),
            &[plain().with(&[
                Check::Bits { at: 27, mask: 0xff, is: 1 },
                Check::Number { at: 28, len: 2, test: Test::is(0) },
            ])],
        )]),
    case("mask.full", Should, "AoE 7.1")
        .shows("a list that would not fit a frame is refused with MError 3")
        .otherwise("the list cannot be read any more, or memory behind it is overwritten")
        .needs(Needs::MASK)
        .steps(&[
            ask(mask_edit(&[(ADD, Who::Own)]), &[plain()]),
            ask(mask(1, Directives::All(ADD, Group::Strangers(90))), &[plain(), anything()]),
            ask(mask_read(), &[plain()]),
            ask(query(), &[plain()]),
        ]),
    case("mask.leaving", Note, "AoE 7.1")
        .shows("who removes itself gets the answer to that edit")
        .otherwise("a tool cannot tell that its last edit worked")
        .needs(Needs::MASK.and(Needs::SECOND_MAC))
        .steps(&[
            ask(mask_edit(&[(ADD, Who::Own), (ADD, Who::Second)]), &[plain()]),
            ask_or_silence(
                mask_edit(&[(DELETE, Who::Second)]).from(Who::Second),
                &[plain()],
                "the answer was lost, or the edit came first",
            ),
        ]),
    case("mask.silence.every-command", Must, "AoE 7.1")
        .shows("reads, lists and unknown commands of who is not listed are dropped, too")
        .otherwise("the only access control of the protocol has holes")
        .needs(Needs::MASK.and(Needs::SECOND_MAC))
        .steps(&[
            ask(mask_edit(&[(ADD, Who::Own)]), &[plain()]),
            silent(read(n(0), n(1)).from(Who::Second)),
            silent(mask_read().from(Who::Second)),
            silent(reserve_read().from(Who::Second)),
            silent(raw(4, &[0; 12]).from(Who::Second)),
        ]),
    case("mask.silence.broadcast", Must, "AoE 7.1")
        .shows("a broadcast query of who is not listed is dropped")
        .otherwise("machines that may not use the disk attach it")
        .needs(Needs::MASK.and(Needs::SECOND_MAC).and(Needs::BROADCAST))
        .steps(&[
            ask(mask_edit(&[(ADD, Who::Own)]), &[plain()]),
            silent(query().to_all().from(Who::Second)),
        ]),
    case("mask.silence.edit", Must, "AoE 7.1")
        .shows("who is not listed cannot add itself")
        .otherwise("the list protects nothing")
        .needs(Needs::MASK.and(Needs::SECOND_MAC))
        .steps(&[
            ask(mask_edit(&[(ADD, Who::Own)]), &[plain()]),
            silent(mask_edit(&[(ADD, Who::Second)]).from(Who::Second)),
            ask(mask_read(), &[plain().with(&[Check::MaskList(Group::Of(&[Who::Own]))])]),
        ]),
    case("mask.silence.write", Must, "AoE 7.1")
        .shows("a write of who is not listed is not executed")
        .otherwise("the list protects nothing")
        .needs(Needs::MASK.and(Needs::SECOND_MAC).and(Needs::WRITES))
        .steps(&[
            ask(mask_edit(&[(ADD, Who::Own)]), &[plain()]),
            silent(write(1, Value::WINDOW, n(1)).from(Who::Second)),
            ask(
                read(Value::WINDOW, n(1)),
                &[done().with(&[Check::Original { lba: Value::WINDOW, sectors: n(1) }])],
            ),
        ]),
];

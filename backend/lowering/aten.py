"""Families of operators that several rules read graphs with. Names are those of `graph.op_name`."""

CASTS = frozenset(
    {
        "aten._to_copy.default",
        "aten.to.device",
        "aten.to.dtype",
        "aten.to.dtype_layout",
        "aten.to.other",
        "aten.type_as.default",
        "dim_order_ops._to_dim_order_copy.default",
    }
)
COPIES = frozenset(
    {
        "aten.alias.default",
        "aten.clone.default",
        "aten.contiguous.default",
        "aten.detach.default",
        "aten.lift_fresh.default",
        "dim_order_ops._clone_dim_order.default",
    }
)
RESHAPES = frozenset(
    {"aten.view.default", "aten._unsafe_view.default", "aten.reshape.default", "aten.flatten.using_ints"}
)
# They keep the elements' order, and at most repeat what they are given.
STILL = COPIES | RESHAPES | {"aten.unsqueeze.default", "aten.expand.default"}
TRANSPOSES = frozenset({"aten.t.default", "aten.permute.default", "aten.transpose.int"})
ARANGES = ("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
FUNCTIONALIZED = "auto_functionalized_v2"  # the node that stands for an operator that writes in place

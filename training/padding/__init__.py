"""Proves that padding a batch with extra rows changes no result.

A program is compiled for each shape of its inputs. The last batch of an epoch is usually short, so padding it to the
common batch size saves a compilation. That is correct only if the padding rows cannot influence any result. This
package proves this by abstract interpretation of the jaxpr, for any module, loss and metric.

The function is traced twice: for the padded batch, and for the short batch without padding. Both programs must consist
of the same operations; an axis whose size differs between them contains the batch. Each value of the two programs is
described by an element of a small lattice:

    Clean     The value is equal in both programs. Padding has no influence.
    RowWise   The rows of the examples are equal in both programs. Only the padding rows may differ.
    Tainted   Nothing is known. Padding may have influenced any element.

Each primitive has a transfer rule, which derives the descriptions of its outputs from those of its inputs. An example:
a batch `x` of 5 rows is padded to 8 rows, and `valid` is False in the padding rows.

    x                          RowWise
    valid                      RowWise, False in the padding rows
    y = exp(x)                 RowWise          (an elementwise operation does not mix rows)
    sum(y, axis=0)             Tainted          (the padding rows are added)
    z = where(valid, y, 0)     RowWise, 0 in the padding rows
    sum(z, axis=0)             Clean            (the padding rows add 0)

A training step may be padded if its loss, its metrics and its batch statistics are all Clean. A prediction may be
padded if its outputs are RowWise. Gradients need no separate proof: if two losses are equal for all parameters, then
their derivatives are equal too.

The proof is sound but not complete. A primitive without a rule returns Tainted unless all its inputs are Clean, so a
correct function may fail the proof. The caller then compiles a program for the short batch, which is always correct.

Modules: `lattice` defines the descriptions; `elementwise`, `indexing`, `reductions` and `control_flow` hold the rules;
`proof` interprets programs.
"""

from training.padding.proof import changes_nothing as changes_nothing

"""Writes naflex.json, logits of timm's NaFlexVit for images of two grids; needs timm 1.0.31.

python tests/weights/timm/write_naflex.py
"""

import json
from pathlib import Path

import numpy as np
from reference import create

GRIDS = [[2, 4], [5, 1]]
LENGTH, PATCH = 9, 4
TINY = dict(patch_size=PATCH, embed_dim=32, depth=2, num_heads=4, num_classes=5)
TINY |= dict(pos_embed_grid_size=[3, 3])
CASES = dict(
    gap=("naflexvit_base_patch16_gap", {}),
    map=("naflexvit_base_patch16_map", {}),
    siglip=("naflexvit_base_patch16_siglip", {}),
    narrow=("naflexvit_so150m2_patch16_reg1_gap", {}),
    token=(
        "naflexvit_base_patch16_gap",
        dict(class_token=True, global_pool="token", fc_norm=False),
    ),
    norms=(
        "naflexvit_base_patch16_map",
        dict(scale_attn_inner_norm=True, scale_mlp_norm=True, qk_norm=True, pre_norm=True),
    ),
    prefix=("naflexvit_base_patch16_gap", dict(pool_include_prefix=True)),
    preserving=("naflexvit_base_patch16_par_gap", {}),
    factorised=("naflexvit_base_patch16_parfac_gap", {}),
    axial=("naflexvit_base_patch16_gap", dict(rope_type="axial")),
)


def patches():
    return np.random.default_rng(1).standard_normal((2, LENGTH, PATCH * PATCH * 3)).astype("f")


def described(architecture, own):
    import torch

    arguments = TINY | own
    model, shapes = create(architecture, arguments)
    coordinates, valid = np.zeros((2, LENGTH, 2), np.int64), np.zeros((2, LENGTH), bool)
    for i, (rows, columns) in enumerate(GRIDS):
        count = rows * columns
        valid[i, :count] = True
        coordinates[i, :count] = [divmod(place, columns) for place in range(count)]
    given = dict(patches=patches(), patch_coord=coordinates, patch_valid=valid)
    with torch.no_grad():
        out = model({key: torch.from_numpy(value) for key, value in given.items()}).numpy()
    logits = [[float(f"{x:.7g}") for x in row] for row in out]
    return dict(architecture=architecture, model_args=arguments, shapes=shapes, logits=logits)


def main():
    cases = {name: described(*case) for name, case in CASES.items()}
    document = dict(grids=GRIDS, length=LENGTH, patch=PATCH, cases=cases)
    Path(__file__).with_name("naflex.json").write_text(json.dumps(document, separators=(",", ":")))


if __name__ == "__main__":
    main()

"""Published weights in transformers' layouts: names on the hub, configurations, preprocessing.

Names are those in DINOv3's README.md, in transformers' conversion scripts (DINOv2), documentation
(I-JEPA) and docstrings (the others), and in open_clip's push_to_hf_hub.py (CLIP's L/14).
Configurations and preprocessing are those of the conversion scripts, or the defaults of the
classes; DINOv3's README.md has the normalisation of its satellite models. `twin` is timm's name of
the same weights, for the licence.
"""

import dataclasses
from typing import Any

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_HALF = [0.5, 0.5, 0.5]
_B16 = "vit_base_patch16"


def _processor(kind: str, side: int, resample: int, mean: list[float], std: list[float], **rest):
    size = dict(height=side, width=side)
    return (
        dict(
            image_processor_type=f"{kind}ImageProcessor",
            do_resize=True,
            do_rescale=True,
            do_normalize=True,
            size=size,
            resample=resample,
            image_mean=mean,
            image_std=std,
        )
        | rest
    )


_VIT = _processor("ViT", 224, 2, _HALF, _HALF)
_DINOV2 = _processor(
    *("Bit", 224, 3, _MEAN, _STD),
    size=dict(shortest_edge=256),
    do_center_crop=True,
    crop_size=dict(height=224, width=224),
)
_DINOV3 = _processor("DINOv3ViT", 224, 2, _MEAN, _STD)
_BEIT = _processor("Beit", 224, 2, _HALF, _HALF)
_SIGLIP = _processor("Siglip", 224, 3, _HALF, _HALF)
_NAFLEX = dict(image_processor_type="Siglip2ImageProcessor", patch_size=16, max_num_patches=256)
_CLIP = dict(image_processor_type="CLIPImageProcessor")
_LARGE = dict(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
)


@dataclasses.dataclass(frozen=True)
class Listed:
    """One entry.

    Attributes:
      name: name on the hub.
      family: what was pre-trained.
      cls: class of transformers whose tensors the files have.
      config: options of its configuration.
      processor: content of preprocessor_config.json.
      twin: timm's name of the same weights, for the licence; "": timm has none, it is not said.
    """

    name: str
    family: str
    cls: str
    config: dict[str, Any]
    processor: dict[str, Any]
    twin: str


def _dinov3() -> list[Listed]:
    small = dict(
        hidden_size=384, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=6
    )
    base = dict(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    huge = dict(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20
    )
    largest = dict(
        hidden_size=4096,
        intermediate_size=8192,
        num_hidden_layers=40,
        num_attention_heads=32,
        query_bias=False,
        value_bias=False,
    )
    plain = dict(patch_size=16, num_register_tokens=4, use_gated_mlp=False, hidden_act="gelu")
    gated = dict(patch_size=16, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu")
    sizes = [
        ("vits16", small | plain, "small_patch16", ("lvd1689m",)),
        ("vits16plus", small | gated, "small_plus_patch16", ("lvd1689m",)),
        ("vitb16", base | plain, "base_patch16", ("lvd1689m",)),
        ("vitl16", _LARGE | plain, "large_patch16", ("lvd1689m", "sat493m")),
        ("vith16plus", huge | gated, "huge_plus_patch16", ("lvd1689m",)),
        ("vit7b16", largest | gated, "7b_patch16", ("lvd1689m", "sat493m")),
    ]
    return [
        Listed(
            f"facebook/dinov3-{size}-pretrain-{data}",
            "DINOv3",
            "DINOv3ViTModel",
            config,
            _DINOV3
            if data == "lvd1689m"
            else dict(_DINOV3, image_mean=[0.43, 0.411, 0.296], image_std=[0.213, 0.156, 0.143]),
            f"vit_{twin}_dinov3.{data}",
        )
        for size, config, twin, datas in sizes
        for data in datas
    ]


def _dinov2() -> list[Listed]:
    sizes = dict(
        small=dict(hidden_size=384, num_attention_heads=6),
        base={},
        large=dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16),
        giant=dict(
            hidden_size=1536, num_hidden_layers=40, num_attention_heads=24, use_swiglu_ffn=True
        ),
    )
    entries = []
    for size, config in sizes.items():
        config = dict(image_size=518, patch_size=14) | config
        twin = f"vit_{size}_patch14_dinov2.lvd142m"
        name = f"facebook/dinov2-{size}"
        entries += [
            Listed(name, "DINOv2", "Dinov2Model", config, _DINOV2, twin),
            Listed(
                f"{name}-imagenet1k-1-layer",
                "DINOv2",
                "Dinov2ForImageClassification",
                config | dict(num_labels=1000),
                _DINOV2,
                twin,
            ),
        ]
    registers = dict(image_size=518, patch_size=14)
    twin = "vit_base_patch14_reg4_dinov2.lvd142m"
    cls, name = "Dinov2WithRegistersModel", "facebook/dinov2-with-registers-base"
    return [*entries, Listed(name, "DINOv2", cls, registers, _DINOV2, twin)]


def _others() -> list[Listed]:
    jepa = dict(image_size=224, layer_norm_eps=1e-6)
    huge = jepa | dict(
        patch_size=14,
        hidden_size=1280,
        num_hidden_layers=32,
        num_attention_heads=16,
        intermediate_size=5120,
    )
    giant = jepa | dict(
        patch_size=16,
        hidden_size=1408,
        num_hidden_layers=40,
        num_attention_heads=16,
        intermediate_size=6144,
    )
    clip = dict(vision_config=dict(_LARGE, patch_size=14, projection_dim=768), projection_dim=768)
    rows = (
        ("facebook/ijepa_vith14_1k", "I-JEPA", "IJepaModel", huge, _VIT)
        + ("vit_huge_patch14_gap_224.in1k_ijepa",),
        ("facebook/ijepa_vitg16_22k", "I-JEPA", "IJepaModel", giant, _VIT)
        + ("vit_giant_patch16_gap_224.in22k_ijepa",),
        ("openai/clip-vit-base-patch32", "CLIP", "CLIPModel", {}, _CLIP)
        + ("vit_base_patch32_clip_224.openai",),
        ("openai/clip-vit-large-patch14", "CLIP", "CLIPModel", clip, _CLIP)
        + ("vit_large_patch14_clip_224.openai",),
        ("google/siglip-base-patch16-224", "SigLIP", "SiglipModel", {}, _SIGLIP)
        + (f"{_B16}_siglip_224.webli",),
        ("google/siglip2-base-patch16-224", "SigLIP 2", "SiglipModel", {}, _SIGLIP)
        + (f"{_B16}_siglip_224.v2_webli",),
        ("google/siglip2-base-patch16-naflex", "SigLIP 2", "Siglip2Model", {}, _NAFLEX)
        + (f"{_B16}_siglip_256.v2_webli",),
        ("google/vit-base-patch16-224", "ViT", "ViTForImageClassification")
        + (dict(num_labels=1000), _VIT, f"{_B16}_224.orig_in21k"),
        ("google/vit-base-patch16-224-in21k", "ViT", "ViTModel", {}, _VIT)
        + (f"{_B16}_224.orig_in21k",),
        ("microsoft/beit-base-patch16-224", "BEiT", "BeitForImageClassification")
        + (dict(num_labels=1000, use_relative_position_bias=True), _BEIT)
        + ("beit_base_patch16_224.in22k_ft_in22k_in1k",),
    )
    return [Listed(*row) for row in rows]


def _igpt() -> list[Listed]:
    """The colours of the palette are in the published preprocessor_config.json alone."""
    processor = dict(
        image_processor_type="ImageGPTImageProcessor",
        size=dict(height=32, width=32),
        resample=2,
        clusters=[[0.0, 0.0, 0.0]] * 512,
    )
    sizes = dict(small=(512, 24, 8), medium=(1024, 36, 8), large=(1536, 48, 16))
    return [
        Listed(
            f"openai/imagegpt-{size}",
            "iGPT",
            "ImageGPTForCausalImageModeling",
            dict(n_embd=width, n_layer=depth, n_head=heads),
            processor,
            "",
        )
        for size, (width, depth, heads) in sizes.items()
    ]


LISTED = [*_dinov3(), *_dinov2(), *_others(), *_igpt()]

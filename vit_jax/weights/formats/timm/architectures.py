"""Architectures of timm and the arguments that each name implies, from timm 1.0.31.

A line is a name, its kind (vit, distilled, bit), then, except for bit, its patch size, width,
depth and heads, then the arguments that differ from the defaults of timm's class. An indented
line continues the line before. "old = new" is a name of earlier versions.
"""

import ast
import functools
from typing import Any

_TABLE = """
aimv2_1b_patch14_224 vit 14 2048 24 16 class_token=False fc_norm=False mlp_ratio=2.75
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
aimv2_1b_patch14_336 vit 14 2048 24 16 class_token=False fc_norm=False mlp_ratio=2.75
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
aimv2_1b_patch14_448 vit 14 2048 24 16 class_token=False fc_norm=False mlp_ratio=2.75
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
aimv2_3b_patch14_224 vit 14 3072 24 24 class_token=False fc_norm=False mlp_ratio=2.6667
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
aimv2_3b_patch14_336 vit 14 3072 24 24 class_token=False fc_norm=False mlp_ratio=2.6667
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
aimv2_3b_patch14_448 vit 14 3072 24 24 class_token=False fc_norm=False mlp_ratio=2.6667
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
aimv2_huge_patch14_224 vit 14 1536 24 12 class_token=False fc_norm=False mlp_ratio=2.6667
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
aimv2_huge_patch14_336 vit 14 1536 24 12 class_token=False fc_norm=False mlp_ratio=2.6667
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
aimv2_huge_patch14_448 vit 14 1536 24 12 class_token=False fc_norm=False mlp_ratio=2.6667
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
aimv2_large_patch14_224 vit 14 1024 24 8 class_token=False fc_norm=False mlp_ratio=2.75
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
aimv2_large_patch14_336 vit 14 1024 24 8 class_token=False fc_norm=False mlp_ratio=2.75
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
aimv2_large_patch14_448 vit 14 1024 24 8 class_token=False fc_norm=False mlp_ratio=2.75
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
beit3_base_patch16_224 vit 16 768 12 12 mlp_ratio=4 scale_attn_norm=True scale_mlp_norm=True
  class_token=True global_pool=avg norm_layer=layernorm(1e-05)
beit3_giant_patch14_224 vit 14 1408 40 16 mlp_ratio=4.3637 scale_attn_norm=True
  scale_mlp_norm=True class_token=True global_pool=avg norm_layer=layernorm(1e-05)
beit3_giant_patch14_336 vit 14 1408 40 16 img_size=336 mlp_ratio=4.3637 scale_attn_norm=True
  scale_mlp_norm=True class_token=True global_pool=avg norm_layer=layernorm(1e-05)
beit3_large_patch16_224 vit 16 1024 24 16 mlp_ratio=4 scale_attn_norm=True scale_mlp_norm=True
  class_token=True global_pool=avg norm_layer=layernorm(1e-05)
deit3_base_patch16_224 vit 16 768 12 12 no_embed_class=True init_values=1e-06
deit3_base_patch16_384 vit 16 768 12 12 no_embed_class=True init_values=1e-06
deit3_huge_patch14_224 vit 14 1280 32 16 no_embed_class=True init_values=1e-06
deit3_large_patch16_224 vit 16 1024 24 16 no_embed_class=True init_values=1e-06
deit3_large_patch16_384 vit 16 1024 24 16 no_embed_class=True init_values=1e-06
deit3_medium_patch16_224 vit 16 512 12 8 no_embed_class=True init_values=1e-06
deit3_small_patch16_224 vit 16 384 12 6 no_embed_class=True init_values=1e-06
deit3_small_patch16_384 vit 16 384 12 6 no_embed_class=True init_values=1e-06
deit_base_distilled_patch16_224 distilled 16 768 12 12
deit_base_distilled_patch16_384 distilled 16 768 12 12
deit_base_patch16_224 vit 16 768 12 12
deit_base_patch16_384 vit 16 768 12 12
deit_small_distilled_patch16_224 distilled 16 384 12 6
deit_small_patch16_224 vit 16 384 12 6
deit_tiny_distilled_patch16_224 distilled 16 192 12 3
deit_tiny_patch16_224 vit 16 192 12 3
eva_large_patch14_196 vit 14 1024 24 16 global_pool=avg
eva_large_patch14_336 vit 14 1024 24 16 global_pool=avg
flexivit_base vit 16 768 12 12 no_embed_class=True
flexivit_large vit 16 1024 24 16 no_embed_class=True
flexivit_small vit 16 384 12 6 no_embed_class=True
resnetv2_101x1_bit bit stem_type=fixed layers=(3,4,23,3) width_factor=1
resnetv2_101x3_bit bit stem_type=fixed layers=(3,4,23,3) width_factor=3
resnetv2_152x2_bit bit stem_type=fixed layers=(3,8,36,3) width_factor=2
resnetv2_152x4_bit bit stem_type=fixed layers=(3,8,36,3) width_factor=4
resnetv2_50x1_bit bit stem_type=fixed layers=(3,4,6,3) width_factor=1
resnetv2_50x3_bit bit stem_type=fixed layers=(3,4,6,3) width_factor=3
test_vit vit 16 64 6 2 mlp_ratio=3 dynamic_img_size=True
test_vit2 vit 16 64 8 2 mlp_ratio=3 class_token=False reg_tokens=1 global_pool=avg
  init_values=1e-05 dynamic_img_size=True
test_vit3 vit 16 96 9 3 mlp_ratio=2 class_token=False reg_tokens=1 global_pool=map
  pool_include_prefix=True init_values=1e-05
test_vit4 vit 16 96 9 3 mlp_ratio=3 class_token=False reg_tokens=1 global_pool=avg
  init_values=1e-05 dynamic_img_size=True norm_layer=rmsnorm
vit_base_mci_224 vit 1 768 12 12 no_embed_class=True embed_layer=ConvStem
vit_base_patch14_dinov2 vit 14 768 12 12 init_values=1e-05
vit_base_patch14_reg1_tipsv2 vit 14 768 12 12 init_values=1.0 reg_tokens=1 no_embed_class=True
vit_base_patch14_reg4_dinov2 vit 14 768 12 12 init_values=1e-05 reg_tokens=4 no_embed_class=True
vit_base_patch16_18x2_224 vit 16 768 18 12 init_values=1e-05 block_fn=ParallelThingsBlock
vit_base_patch16_224 vit 16 768 12 12
vit_base_patch16_224_miil vit 16 768 12 12 qkv_bias=False
vit_base_patch16_384 vit 16 768 12 12
vit_base_patch16_clip_224 vit 16 768 12 12 pre_norm=True norm_layer=layernorm(1e-05)
vit_base_patch16_clip_384 vit 16 768 12 12 pre_norm=True norm_layer=layernorm(1e-05)
vit_base_patch16_clip_quickgelu_224 vit 16 768 12 12 pre_norm=True norm_layer=layernorm(1e-05)
  act_layer=quick_gelu
vit_base_patch16_gap_224 vit 16 768 12 16 class_token=False global_pool=avg fc_norm=False
vit_base_patch16_plus_240 vit 16 896 12 14 init_values=1e-05
vit_base_patch16_plus_clip_240 vit 16 896 12 14 pre_norm=True norm_layer=layernorm(1e-05)
vit_base_patch16_radio_v3 vit 16 768 12 12 img_size=512 init_values=1e-05 reg_tokens=7
  no_embed_class=True final_norm=False
vit_base_patch16_reg4_gap_256 vit 16 768 12 12 class_token=False no_embed_class=True
  global_pool=avg reg_tokens=4
vit_base_patch16_rpn_224 vit 16 768 12 12 qkv_bias=False init_values=1e-05 class_token=False
  block_fn=ResPostBlock global_pool=avg
vit_base_patch16_siglip_224 vit 16 768 12 12 class_token=False global_pool=map
vit_base_patch16_siglip_256 vit 16 768 12 12 class_token=False global_pool=map
vit_base_patch16_siglip_384 vit 16 768 12 12 class_token=False global_pool=map
vit_base_patch16_siglip_512 vit 16 768 12 12 class_token=False global_pool=map
vit_base_patch16_siglip_gap_224 vit 16 768 12 12 class_token=False global_pool=avg fc_norm=False
vit_base_patch16_siglip_gap_256 vit 16 768 12 12 class_token=False global_pool=avg fc_norm=False
vit_base_patch16_siglip_gap_384 vit 16 768 12 12 class_token=False global_pool=avg fc_norm=False
vit_base_patch16_siglip_gap_512 vit 16 768 12 12 class_token=False global_pool=avg fc_norm=False
vit_base_patch16_xp_224 vit 16 768 12 12 pre_norm=True no_embed_class=True norm_layer=rmsnorm
  block_fn=ParallelScalingBlock qkv_bias=False qk_norm=True
vit_base_patch32_224 vit 32 768 12 12
vit_base_patch32_384 vit 32 768 12 12
vit_base_patch32_clip_224 vit 32 768 12 12 pre_norm=True norm_layer=layernorm(1e-05)
vit_base_patch32_clip_256 vit 32 768 12 12 pre_norm=True norm_layer=layernorm(1e-05)
vit_base_patch32_clip_384 vit 32 768 12 12 pre_norm=True norm_layer=layernorm(1e-05)
vit_base_patch32_clip_448 vit 32 768 12 12 pre_norm=True norm_layer=layernorm(1e-05)
vit_base_patch32_clip_quickgelu_224 vit 32 768 12 12 pre_norm=True norm_layer=layernorm(1e-05)
  act_layer=quick_gelu
vit_base_patch32_plus_256 vit 32 896 12 14 init_values=1e-05
vit_base_patch32_siglip_256 vit 32 768 12 12 class_token=False global_pool=map act_layer=gelu_tanh
vit_base_patch32_siglip_gap_256 vit 32 768 12 12 class_token=False global_pool=avg fc_norm=False
  act_layer=gelu_tanh
vit_base_patch8_224 vit 8 768 12 12
vit_base_r26_s32_224 vit 1 768 12 12 embed_layer=ResNetV2
vit_base_r50_s16_224 vit 1 768 12 12 embed_layer=ResNetV2
vit_base_r50_s16_384 vit 1 768 12 12 embed_layer=ResNetV2
vit_base_resnet26d_224 vit 1 768 12 12 embed_layer=FeatureListNet
vit_base_resnet50d_224 vit 1 768 12 12 embed_layer=FeatureListNet
vit_betwixt_patch16_gap_256 vit 16 640 12 10 class_token=False global_pool=avg qkv_bias=False
  init_values=1e-06 fc_norm=False
vit_betwixt_patch16_reg1_gap_256 vit 16 640 12 10 init_values=1e-05 class_token=False
  no_embed_class=True reg_tokens=1 global_pool=avg
vit_betwixt_patch16_reg4_gap_256 vit 16 640 12 10 init_values=1e-05 class_token=False
  no_embed_class=True reg_tokens=4 global_pool=avg
vit_betwixt_patch16_reg4_gap_384 vit 16 640 12 10 init_values=1e-05 class_token=False
  no_embed_class=True reg_tokens=4 global_pool=avg
vit_betwixt_patch32_clip_224 vit 32 640 12 10 pre_norm=True norm_layer=layernorm(1e-05)
vit_dlittle_patch16_reg1_gap_256 vit 16 320 14 5 init_values=1e-05 mlp_ratio=5.6 class_token=False
  no_embed_class=True reg_tokens=1 global_pool=avg attn_layer=diff
vit_dpwee_patch16_reg1_gap_256 vit 16 256 16 4 init_values=1e-05 mlp_ratio=5 class_token=False
  no_embed_class=True reg_tokens=1 global_pool=avg block_fn=DiffParallelScalingBlock
vit_dwee_patch16_reg1_gap_256 vit 16 256 14 4 init_values=1e-05 mlp_ratio=5 class_token=False
  no_embed_class=True reg_tokens=1 global_pool=avg attn_layer=diff
vit_giant_patch14_224 vit 14 1408 40 16 mlp_ratio=4.363636363636363
vit_giant_patch14_clip_224 vit 14 1408 40 16 mlp_ratio=4.363636363636363 pre_norm=True
  norm_layer=layernorm(1e-05)
vit_giant_patch14_dinov2 vit 14 1536 40 24 init_values=1e-05 mlp_ratio=5.33334
  mlp_layer=SwiGLUPacked act_layer=silu
vit_giant_patch14_reg1_tipsv2 vit 14 1536 40 24 init_values=1.0 mlp_ratio=5.33334
  mlp_layer=SwiGLUPacked act_layer=silu reg_tokens=1 no_embed_class=True
vit_giant_patch14_reg4_dinov2 vit 14 1536 40 24 init_values=1e-05 mlp_ratio=5.33334
  mlp_layer=SwiGLUPacked act_layer=silu reg_tokens=4 no_embed_class=True
vit_giant_patch16_gap_224 vit 16 1408 40 16 mlp_ratio=4.363636363636363 class_token=False
  global_pool=avg fc_norm=False
vit_giant_patch16_radio_v3 vit 16 1536 40 24 img_size=512 reg_tokens=7 no_embed_class=True
  final_norm=False
vit_giantopt_patch16_siglip_256 vit 16 1536 40 16 class_token=False global_pool=map
  act_layer=gelu_tanh
vit_giantopt_patch16_siglip_384 vit 16 1536 40 16 class_token=False global_pool=map
  act_layer=gelu_tanh
vit_giantopt_patch16_siglip_gap_256 vit 16 1536 40 16 class_token=False global_pool=avg
  fc_norm=False act_layer=gelu_tanh
vit_giantopt_patch16_siglip_gap_384 vit 16 1536 40 16 class_token=False global_pool=avg
  fc_norm=False act_layer=gelu_tanh
vit_gigantic_patch14_224 vit 14 1664 48 16 mlp_ratio=4.923076923076923
vit_gigantic_patch14_clip_224 vit 14 1664 48 16 mlp_ratio=4.923076923076923 pre_norm=True
  norm_layer=layernorm(1e-05)
vit_gigantic_patch14_clip_378 vit 14 1664 48 16 mlp_ratio=4.923076923076923 pre_norm=True
  norm_layer=layernorm(1e-05)
vit_gigantic_patch14_clip_quickgelu_224 vit 14 1664 48 16 mlp_ratio=4.923076923076923
  pre_norm=True norm_layer=layernorm(1e-05) act_layer=quick_gelu
vit_huge_patch14_224 vit 14 1280 32 16
vit_huge_patch14_clip_224 vit 14 1280 32 16 pre_norm=True norm_layer=layernorm(1e-05)
vit_huge_patch14_clip_336 vit 14 1280 32 16 pre_norm=True norm_layer=layernorm(1e-05)
vit_huge_patch14_clip_378 vit 14 1280 32 16 pre_norm=True norm_layer=layernorm(1e-05)
vit_huge_patch14_clip_quickgelu_224 vit 14 1280 32 16 pre_norm=True norm_layer=layernorm(1e-05)
  act_layer=quick_gelu
vit_huge_patch14_clip_quickgelu_378 vit 14 1280 32 16 pre_norm=True norm_layer=layernorm(1e-05)
  act_layer=quick_gelu
vit_huge_patch14_gap_224 vit 14 1280 32 16 class_token=False global_pool=avg fc_norm=False
vit_huge_patch14_xp_224 vit 14 1280 32 16 pre_norm=True no_embed_class=True norm_layer=rmsnorm
  block_fn=ParallelScalingBlock qkv_bias=False qk_norm=True
vit_huge_patch16_gap_448 vit 16 1280 32 16 class_token=False global_pool=avg fc_norm=False
vit_huge_patch16_radio_v3 vit 16 1280 32 16 img_size=512 reg_tokens=7 no_embed_class=True
  final_norm=False
vit_huge_patch16_radio_v4 vit 16 1280 32 16 img_size=512 reg_tokens=9 no_embed_class=True
  final_norm=False
vit_intern300m_patch14_448 vit 14 1024 24 16 init_values=0.1 final_norm=False
  dynamic_img_size=True
vit_large_patch14_224 vit 14 1024 24 16
vit_large_patch14_clip_224 vit 14 1024 24 16 pre_norm=True norm_layer=layernorm(1e-05)
vit_large_patch14_clip_336 vit 14 1024 24 16 pre_norm=True norm_layer=layernorm(1e-05)
vit_large_patch14_clip_quickgelu_224 vit 14 1024 24 16 pre_norm=True norm_layer=layernorm(1e-05)
  act_layer=quick_gelu
vit_large_patch14_clip_quickgelu_336 vit 14 1024 24 16 pre_norm=True norm_layer=layernorm(1e-05)
  act_layer=quick_gelu
vit_large_patch14_dinov2 vit 14 1024 24 16 init_values=1e-05
vit_large_patch14_reg1_tipsv2 vit 14 1024 24 16 init_values=1.0 reg_tokens=1 no_embed_class=True
vit_large_patch14_reg4_dinov2 vit 14 1024 24 16 init_values=1e-05 reg_tokens=4 no_embed_class=True
vit_large_patch14_xp_224 vit 14 1024 24 16 pre_norm=True no_embed_class=True norm_layer=rmsnorm
  block_fn=ParallelScalingBlock qkv_bias=False qk_norm=True
vit_large_patch16_224 vit 16 1024 24 16
vit_large_patch16_384 vit 16 1024 24 16
vit_large_patch16_radio_v3 vit 16 1024 24 16 img_size=512 init_values=1e-05 reg_tokens=7
  no_embed_class=True final_norm=False
vit_large_patch16_siglip_256 vit 16 1024 24 16 class_token=False global_pool=map
vit_large_patch16_siglip_384 vit 16 1024 24 16 class_token=False global_pool=map
vit_large_patch16_siglip_512 vit 16 1024 24 16 class_token=False global_pool=map
  act_layer=gelu_tanh
vit_large_patch16_siglip_gap_256 vit 16 1024 24 16 class_token=False global_pool=avg fc_norm=False
vit_large_patch16_siglip_gap_384 vit 16 1024 24 16 class_token=False global_pool=avg fc_norm=False
vit_large_patch16_siglip_gap_512 vit 16 1024 24 16 class_token=False global_pool=avg fc_norm=False
  act_layer=gelu_tanh
vit_large_patch32_224 vit 32 1024 24 16
vit_large_patch32_384 vit 32 1024 24 16
vit_large_r50_s32_224 vit 1 1024 24 16 embed_layer=ResNetV2
vit_large_r50_s32_384 vit 1 1024 24 16 embed_layer=ResNetV2
vit_little_patch16_reg1_gap_256 vit 16 320 14 5 init_values=1e-05 mlp_ratio=5.6 class_token=False
  no_embed_class=True reg_tokens=1 global_pool=avg
vit_little_patch16_reg4_gap_256 vit 16 320 14 5 init_values=1e-05 mlp_ratio=5.6 class_token=False
  no_embed_class=True reg_tokens=4 global_pool=avg
vit_medium_patch16_clip_224 vit 16 512 12 8 pre_norm=True norm_layer=layernorm(1e-05)
vit_medium_patch16_gap_240 vit 16 512 12 8 class_token=False global_pool=avg qkv_bias=False
  init_values=1e-06 fc_norm=False
vit_medium_patch16_gap_256 vit 16 512 12 8 class_token=False global_pool=avg qkv_bias=False
  init_values=1e-06 fc_norm=False
vit_medium_patch16_gap_384 vit 16 512 12 8 class_token=False global_pool=avg qkv_bias=False
  init_values=1e-06 fc_norm=False
vit_medium_patch16_reg1_gap_256 vit 16 512 12 8 init_values=1e-05 class_token=False
  no_embed_class=True reg_tokens=1 global_pool=avg
vit_medium_patch16_reg4_gap_256 vit 16 512 12 8 init_values=1e-05 class_token=False
  no_embed_class=True reg_tokens=4 global_pool=avg
vit_medium_patch32_clip_224 vit 32 512 12 8 pre_norm=True norm_layer=layernorm(1e-05)
vit_mediumd_patch16_reg4_gap_256 vit 16 512 20 8 init_values=1e-05 class_token=False
  no_embed_class=True reg_tokens=4 global_pool=avg
vit_mediumd_patch16_reg4_gap_384 vit 16 512 20 8 init_values=1e-05 class_token=False
  no_embed_class=True reg_tokens=4 global_pool=avg
vit_pwee_patch16_reg1_gap_256 vit 16 256 16 4 init_values=1e-05 mlp_ratio=5 class_token=False
  no_embed_class=True reg_tokens=1 global_pool=avg block_fn=ParallelScalingBlock
vit_small_patch14_dinov2 vit 14 384 12 6 init_values=1e-05
vit_small_patch14_reg4_dinov2 vit 14 384 12 6 init_values=1e-05 reg_tokens=4 no_embed_class=True
vit_small_patch16_18x2_224 vit 16 384 18 6 init_values=1e-05 block_fn=ParallelThingsBlock
vit_small_patch16_224 vit 16 384 12 6
vit_small_patch16_36x1_224 vit 16 384 36 6 init_values=1e-05
vit_small_patch16_384 vit 16 384 12 6
vit_small_patch32_224 vit 32 384 12 6
vit_small_patch32_384 vit 32 384 12 6
vit_small_patch8_224 vit 8 384 12 6
vit_small_r26_s32_224 vit 1 384 12 6 embed_layer=ResNetV2
vit_small_r26_s32_384 vit 1 384 12 6 embed_layer=ResNetV2
vit_small_resnet26d_224 vit 1 768 8 8 mlp_ratio=3 embed_layer=FeatureListNet
vit_small_resnet50d_s16_224 vit 1 768 8 8 mlp_ratio=3 embed_layer=FeatureListNet
vit_so150m2_patch16_reg1_gap_256 vit 16 832 21 13 mlp_ratio=2.6153846153846154 init_values=1e-05
  qkv_bias=False class_token=False reg_tokens=1 global_pool=avg
vit_so150m2_patch16_reg1_gap_384 vit 16 832 21 13 mlp_ratio=2.6153846153846154 init_values=1e-05
  qkv_bias=False class_token=False reg_tokens=1 global_pool=avg
vit_so150m2_patch16_reg1_gap_448 vit 16 832 21 13 mlp_ratio=2.6153846153846154 init_values=1e-05
  qkv_bias=False class_token=False reg_tokens=1 global_pool=avg
vit_so150m_patch16_reg4_gap_256 vit 16 896 18 14 mlp_ratio=2.572 class_token=False reg_tokens=4
  global_pool=avg fc_norm=False
vit_so150m_patch16_reg4_gap_384 vit 16 896 18 14 mlp_ratio=2.572 class_token=False reg_tokens=4
  global_pool=avg fc_norm=False
vit_so150m_patch16_reg4_map_256 vit 16 896 18 14 mlp_ratio=2.572 class_token=False reg_tokens=4
  global_pool=map
vit_so400m_patch14_reg1_tipsv2 vit 14 1152 27 16 init_values=1.0 mlp_ratio=3.736111111111111
  reg_tokens=1 no_embed_class=True
vit_so400m_patch14_siglip_224 vit 14 1152 27 16 mlp_ratio=3.7362 class_token=False global_pool=map
vit_so400m_patch14_siglip_378 vit 14 1152 27 16 mlp_ratio=3.7362 class_token=False global_pool=map
vit_so400m_patch14_siglip_384 vit 14 1152 27 16 mlp_ratio=3.7362 class_token=False global_pool=map
vit_so400m_patch14_siglip_gap_224 vit 14 1152 27 16 mlp_ratio=3.7362 class_token=False
  global_pool=avg fc_norm=False
vit_so400m_patch14_siglip_gap_378 vit 14 1152 27 16 mlp_ratio=3.7362 class_token=False
  global_pool=avg fc_norm=False
vit_so400m_patch14_siglip_gap_384 vit 14 1152 27 16 mlp_ratio=3.7362 class_token=False
  global_pool=avg fc_norm=False
vit_so400m_patch14_siglip_gap_448 vit 14 1152 27 16 mlp_ratio=3.7362 class_token=False
  global_pool=avg fc_norm=False
vit_so400m_patch14_siglip_gap_896 vit 14 1152 27 16 mlp_ratio=3.7362 class_token=False
  global_pool=avg fc_norm=False
vit_so400m_patch16_radio_v4 vit 16 1152 27 16 img_size=512 mlp_ratio=3.736111111111111
  reg_tokens=9 no_embed_class=True final_norm=False
vit_so400m_patch16_siglip_256 vit 16 1152 27 16 mlp_ratio=3.7362 class_token=False global_pool=map
  act_layer=gelu_tanh
vit_so400m_patch16_siglip_384 vit 16 1152 27 16 mlp_ratio=3.7362 class_token=False global_pool=map
  act_layer=gelu_tanh
vit_so400m_patch16_siglip_512 vit 16 1152 27 16 mlp_ratio=3.7362 class_token=False global_pool=map
  act_layer=gelu_tanh
vit_so400m_patch16_siglip_gap_256 vit 16 1152 27 16 mlp_ratio=3.7362 class_token=False
  global_pool=avg fc_norm=False act_layer=gelu_tanh
vit_so400m_patch16_siglip_gap_384 vit 16 1152 27 16 mlp_ratio=3.7362 class_token=False
  global_pool=avg fc_norm=False act_layer=gelu_tanh
vit_so400m_patch16_siglip_gap_512 vit 16 1152 27 16 mlp_ratio=3.7362 class_token=False
  global_pool=avg fc_norm=False act_layer=gelu_tanh
vit_tiny_patch16_224 vit 16 192 12 3
vit_tiny_patch16_384 vit 16 192 12 3
vit_tiny_r_s16_p8_224 vit 8 192 12 3 embed_layer=Sequential
vit_tiny_r_s16_p8_384 vit 8 192 12 3 embed_layer=Sequential
vit_wee_patch16_reg1_gap_256 vit 16 256 14 4 init_values=1e-05 mlp_ratio=5 class_token=False
  no_embed_class=True reg_tokens=1 global_pool=avg
vit_xsmall_patch16_clip_224 vit 16 256 10 4 pre_norm=True norm_layer=layernorm(1e-05)
deit3_base_patch16_224_in21ft1k = deit3_base_patch16_224
deit3_base_patch16_384_in21ft1k = deit3_base_patch16_384
deit3_huge_patch14_224_in21ft1k = deit3_huge_patch14_224
deit3_large_patch16_224_in21ft1k = deit3_large_patch16_224
deit3_large_patch16_384_in21ft1k = deit3_large_patch16_384
deit3_medium_patch16_224_in21ft1k = deit3_medium_patch16_224
deit3_small_patch16_224_in21ft1k = deit3_small_patch16_224
deit3_small_patch16_384_in21ft1k = deit3_small_patch16_384
resnetv2_101x1_bitm = resnetv2_101x1_bit
resnetv2_101x1_bitm_in21k = resnetv2_101x1_bit
resnetv2_101x3_bitm = resnetv2_101x3_bit
resnetv2_101x3_bitm_in21k = resnetv2_101x3_bit
resnetv2_152x2_bit_teacher = resnetv2_152x2_bit
resnetv2_152x2_bit_teacher_384 = resnetv2_152x2_bit
resnetv2_152x2_bitm = resnetv2_152x2_bit
resnetv2_152x2_bitm_in21k = resnetv2_152x2_bit
resnetv2_152x4_bitm = resnetv2_152x4_bit
resnetv2_152x4_bitm_in21k = resnetv2_152x4_bit
resnetv2_50x1_bit_distilled = resnetv2_50x1_bit
resnetv2_50x1_bitm = resnetv2_50x1_bit
resnetv2_50x1_bitm_in21k = resnetv2_50x1_bit
resnetv2_50x3_bitm = resnetv2_50x3_bit
resnetv2_50x3_bitm_in21k = resnetv2_50x3_bit
vit_base_patch16_224_dino = vit_base_patch16_224
vit_base_patch16_224_in21k = vit_base_patch16_224
vit_base_patch16_224_miil_in21k = vit_base_patch16_224_miil
vit_base_patch16_224_sam = vit_base_patch16_224
vit_base_patch32_224_clip_laion2b = vit_base_patch32_clip_224
vit_base_patch32_224_in21k = vit_base_patch32_224
vit_base_patch32_224_sam = vit_base_patch32_224
vit_base_patch8_224_dino = vit_base_patch8_224
vit_base_patch8_224_in21k = vit_base_patch8_224
vit_base_r50_s16_224_in21k = vit_base_r50_s16_224
vit_base_resnet50_224_in21k = vit_base_r50_s16_224
vit_base_resnet50_384 = vit_base_r50_s16_384
vit_giant_patch14_224_clip_laion2b = vit_giant_patch14_clip_224
vit_huge_patch14_224_clip_laion2b = vit_huge_patch14_clip_224
vit_huge_patch14_224_in21k = vit_huge_patch14_224
vit_large_patch14_224_clip_laion2b = vit_large_patch14_clip_224
vit_large_patch16_224_in21k = vit_large_patch16_224
vit_large_patch32_224_in21k = vit_large_patch32_224
vit_large_r50_s32_224_in21k = vit_large_r50_s32_224
vit_small_patch16_224_dino = vit_small_patch16_224
vit_small_patch16_224_in21k = vit_small_patch16_224
vit_small_patch32_224_in21k = vit_small_patch32_224
vit_small_patch8_224_dino = vit_small_patch8_224
vit_small_r26_s32_224_in21k = vit_small_r26_s32_224
vit_tiny_patch16_224_in21k = vit_tiny_patch16_224
vit_tiny_r_s16_p8_224_in21k = vit_tiny_r_s16_p8_224
"""
_SIZES = ("patch_size", "embed_dim", "depth", "num_heads")


@functools.cache
def _lines() -> dict[str, list[str]]:
    lines = _TABLE.replace("\n  ", " ").split("\n")
    return {name: words for name, *words in map(str.split, filter(None, lines))}


def architecture(name: str) -> tuple[str, dict[str, Any]] | None:
    """The kind of an architecture and its arguments; None if the name is not in the table.

    Args:
      name: name as in config.json; a pretrained tag after a dot is ignored.
    """
    words = _lines().get(name.partition(".")[0])
    if words is None:
        return None
    if words[0] == "=":
        return architecture(words[1])
    kind, *rest = words
    sizes = {} if kind == "bit" else dict(zip(_SIZES, map(int, rest)))
    pairs = [word.split("=") for word in rest[len(sizes) :]]
    return kind, sizes | {key: _value(text) for key, text in pairs}


def architectures() -> list[str]:
    """All names in the table."""
    return list(_lines())


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

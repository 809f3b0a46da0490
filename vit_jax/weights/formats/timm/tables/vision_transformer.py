"""Architectures of timm's vision_transformer.py; see `architectures`."""

TABLE = """
aimv2_1b_patch14_224 vit 14 2048 24 16 class_token=False fc_norm=False mlp_ratio=2.75
  global_pool=avg qkv_bias=False proj_bias=False act_layer=silu norm_layer=rmsnorm(1e-05)
  embed_norm_layer=rmsnorm(1e-05) mlp_layer=SwiGLU
aimv2_1b_patch14_336 = aimv2_1b_patch14_224
aimv2_1b_patch14_448 = aimv2_1b_patch14_224
aimv2_3b_patch14_224 = aimv2_1b_patch14_224 embed_dim=3072 num_heads=24 mlp_ratio=2.6667
aimv2_3b_patch14_336 = aimv2_3b_patch14_224
aimv2_3b_patch14_448 = aimv2_3b_patch14_224
aimv2_huge_patch14_224 = aimv2_3b_patch14_224 embed_dim=1536 num_heads=12
aimv2_huge_patch14_336 = aimv2_huge_patch14_224
aimv2_huge_patch14_448 = aimv2_huge_patch14_224
aimv2_large_patch14_224 = aimv2_1b_patch14_224 embed_dim=1024 num_heads=8
aimv2_large_patch14_336 = aimv2_large_patch14_224
aimv2_large_patch14_448 = aimv2_large_patch14_224
beit3_base_patch16_224 vit 16 768 12 12 scale_attn_norm=True scale_mlp_norm=True global_pool=avg
  norm_layer=layernorm(1e-05)
beit3_giant_patch14_224 = beit3_base_patch16_224 patch_size=14 embed_dim=1408 depth=40
  num_heads=16 mlp_ratio=4.3637
beit3_giant_patch14_336 = beit3_giant_patch14_224 img_size=336
beit3_large_patch16_224 = beit3_base_patch16_224 embed_dim=1024 depth=24 num_heads=16
eva_large_patch14_196 vit 14 1024 24 16 global_pool=avg
eva_large_patch14_336 = eva_large_patch14_196
flexivit_base vit 16 768 12 12 no_embed_class=True
flexivit_large vit 16 1024 24 16 no_embed_class=True
flexivit_small vit 16 384 12 6 no_embed_class=True
test_vit vit 16 64 6 2 mlp_ratio=3 dynamic_img_size=True
test_vit2 = test_vit depth=8 class_token=False reg_tokens=1 global_pool=avg init_values=1e-05
test_vit3 vit 16 96 9 3 mlp_ratio=2 class_token=False reg_tokens=1 global_pool=map
  pool_include_prefix=True init_values=1e-05
test_vit4 = test_vit2 embed_dim=96 depth=9 num_heads=3 norm_layer=rmsnorm
vit_base_patch14_dinov2 vit 14 768 12 12 init_values=1e-05
vit_base_patch14_reg1_tipsv2 = flexivit_base patch_size=14 init_values=1 reg_tokens=1
vit_base_patch14_reg4_dinov2 = vit_base_patch14_dinov2 reg_tokens=4 no_embed_class=True
vit_base_patch16_18x2_224 vit 16 768 18 12 init_values=1e-05 block_fn=ParallelThingsBlock
vit_base_patch16_224 vit 16 768 12 12
vit_base_patch16_224_miil vit 16 768 12 12 qkv_bias=False
vit_base_patch16_384 vit 16 768 12 12
vit_base_patch16_clip_224 vit 16 768 12 12 pre_norm=True norm_layer=layernorm(1e-05)
vit_base_patch16_clip_384 = vit_base_patch16_clip_224
vit_base_patch16_clip_quickgelu_224 = vit_base_patch16_clip_224 act_layer=quick_gelu
vit_base_patch16_gap_224 vit 16 768 12 16 class_token=False global_pool=avg fc_norm=False
vit_base_patch16_plus_240 vit 16 896 12 14 init_values=1e-05
vit_base_patch16_plus_clip_240 = vit_base_patch16_clip_224 embed_dim=896 num_heads=14
vit_base_patch16_radio_v3 = flexivit_base img_size=512 init_values=1e-05 reg_tokens=7
  final_norm=False
vit_base_patch16_reg4_gap_256 = flexivit_base class_token=False global_pool=avg reg_tokens=4
vit_base_patch16_rpn_224 = vit_base_patch16_224_miil init_values=1e-05 class_token=False
  block_fn=ResPostBlock global_pool=avg
vit_base_patch16_siglip_224 vit 16 768 12 12 class_token=False global_pool=map
vit_base_patch16_siglip_256 = vit_base_patch16_siglip_224
vit_base_patch16_siglip_384 = vit_base_patch16_siglip_224
vit_base_patch16_siglip_512 = vit_base_patch16_siglip_224
vit_base_patch16_siglip_gap_224 = vit_base_patch16_gap_224 num_heads=12
vit_base_patch16_siglip_gap_256 = vit_base_patch16_siglip_gap_224
vit_base_patch16_siglip_gap_384 = vit_base_patch16_siglip_gap_224
vit_base_patch16_siglip_gap_512 = vit_base_patch16_siglip_gap_224
vit_base_patch16_xp_224 = flexivit_base pre_norm=True norm_layer=rmsnorm
  block_fn=ParallelScalingBlock qkv_bias=False qk_norm=True
vit_base_patch32_224 vit 32 768 12 12
vit_base_patch32_384 vit 32 768 12 12
vit_base_patch32_clip_224 = vit_base_patch16_clip_224 patch_size=32
vit_base_patch32_clip_256 = vit_base_patch32_clip_224
vit_base_patch32_clip_384 = vit_base_patch32_clip_224
vit_base_patch32_clip_448 = vit_base_patch32_clip_224
vit_base_patch32_clip_quickgelu_224 = vit_base_patch32_clip_224 act_layer=quick_gelu
vit_base_patch32_plus_256 vit 32 896 12 14 init_values=1e-05
vit_base_patch32_siglip_256 = vit_base_patch16_siglip_224 patch_size=32 act_layer=gelu_tanh
vit_base_patch32_siglip_gap_256 = vit_base_patch32_siglip_256 global_pool=avg fc_norm=False
vit_base_patch8_224 vit 8 768 12 12
vit_betwixt_patch16_gap_256 = vit_base_patch16_gap_224 embed_dim=640 num_heads=10 qkv_bias=False
  init_values=1e-06
vit_betwixt_patch16_reg1_gap_256 = vit_base_patch16_reg4_gap_256 embed_dim=640 num_heads=10
  init_values=1e-05 reg_tokens=1
vit_betwixt_patch16_reg4_gap_256 = vit_betwixt_patch16_reg1_gap_256 reg_tokens=4
vit_betwixt_patch16_reg4_gap_384 = vit_betwixt_patch16_reg4_gap_256
vit_betwixt_patch32_clip_224 = vit_base_patch32_clip_224 embed_dim=640 num_heads=10
vit_dlittle_patch16_reg1_gap_256 = vit_betwixt_patch16_reg1_gap_256 embed_dim=320 depth=14
  num_heads=5 mlp_ratio=5.6 attn_layer=diff
vit_dpwee_patch16_reg1_gap_256 = vit_betwixt_patch16_reg1_gap_256 embed_dim=256 depth=16
  num_heads=4 mlp_ratio=5 block_fn=DiffParallelScalingBlock
vit_dwee_patch16_reg1_gap_256 = vit_dpwee_patch16_reg1_gap_256 depth=14 attn_layer=diff
  block_fn=None
vit_giant_patch14_224 vit 14 1408 40 16 mlp_ratio=4.363636363636363
vit_giant_patch14_clip_224 = vit_giant_patch14_224 pre_norm=True norm_layer=layernorm(1e-05)
vit_giant_patch14_dinov2 vit 14 1536 40 24 init_values=1e-05 mlp_ratio=5.33334
  mlp_layer=SwiGLUPacked act_layer=silu
vit_giant_patch14_reg1_tipsv2 = vit_giant_patch14_dinov2 init_values=1 reg_tokens=1
  no_embed_class=True
vit_giant_patch14_reg4_dinov2 = vit_giant_patch14_dinov2 reg_tokens=4 no_embed_class=True
vit_giant_patch16_gap_224 = vit_base_patch16_gap_224 embed_dim=1408 depth=40
  mlp_ratio=4.363636363636363
vit_giant_patch16_radio_v3 vit 16 1536 40 24 img_size=512 reg_tokens=7 no_embed_class=True
  final_norm=False
vit_giantopt_patch16_siglip_256 vit 16 1536 40 16 class_token=False global_pool=map
  act_layer=gelu_tanh
vit_giantopt_patch16_siglip_384 = vit_giantopt_patch16_siglip_256
vit_giantopt_patch16_siglip_gap_256 = vit_giantopt_patch16_siglip_256 global_pool=avg
  fc_norm=False
vit_giantopt_patch16_siglip_gap_384 = vit_giantopt_patch16_siglip_gap_256
vit_gigantic_patch14_224 vit 14 1664 48 16 mlp_ratio=4.923076923076923
vit_gigantic_patch14_clip_224 = vit_gigantic_patch14_224 pre_norm=True norm_layer=layernorm(1e-05)
vit_gigantic_patch14_clip_378 = vit_gigantic_patch14_clip_224
vit_gigantic_patch14_clip_quickgelu_224 = vit_gigantic_patch14_clip_224 act_layer=quick_gelu
vit_huge_patch14_224 vit 14 1280 32 16
vit_huge_patch14_clip_224 vit 14 1280 32 16 pre_norm=True norm_layer=layernorm(1e-05)
vit_huge_patch14_clip_336 = vit_huge_patch14_clip_224
vit_huge_patch14_clip_378 = vit_huge_patch14_clip_224
vit_huge_patch14_clip_quickgelu_224 = vit_huge_patch14_clip_224 act_layer=quick_gelu
vit_huge_patch14_clip_quickgelu_378 = vit_huge_patch14_clip_quickgelu_224
vit_huge_patch14_gap_224 = vit_base_patch16_gap_224 patch_size=14 embed_dim=1280 depth=32
vit_huge_patch14_xp_224 = vit_base_patch16_xp_224 patch_size=14 embed_dim=1280 depth=32
  num_heads=16
vit_huge_patch16_gap_448 = vit_huge_patch14_gap_224 patch_size=16
vit_huge_patch16_radio_v3 = vit_giant_patch16_radio_v3 embed_dim=1280 depth=32 num_heads=16
vit_huge_patch16_radio_v4 = vit_huge_patch16_radio_v3 reg_tokens=9
vit_intern300m_patch14_448 vit 14 1024 24 16 init_values=0.1 final_norm=False
  dynamic_img_size=True
vit_large_patch14_224 vit 14 1024 24 16
vit_large_patch14_clip_224 = vit_huge_patch14_clip_224 embed_dim=1024 depth=24
vit_large_patch14_clip_336 = vit_large_patch14_clip_224
vit_large_patch14_clip_quickgelu_224 = vit_large_patch14_clip_224 act_layer=quick_gelu
vit_large_patch14_clip_quickgelu_336 = vit_large_patch14_clip_quickgelu_224
vit_large_patch14_dinov2 vit 14 1024 24 16 init_values=1e-05
vit_large_patch14_reg1_tipsv2 = flexivit_large patch_size=14 init_values=1 reg_tokens=1
vit_large_patch14_reg4_dinov2 = vit_large_patch14_dinov2 reg_tokens=4 no_embed_class=True
vit_large_patch14_xp_224 = vit_huge_patch14_xp_224 embed_dim=1024 depth=24
vit_large_patch16_224 vit 16 1024 24 16
vit_large_patch16_384 vit 16 1024 24 16
vit_large_patch16_radio_v3 = vit_base_patch16_radio_v3 embed_dim=1024 depth=24 num_heads=16
vit_large_patch16_siglip_256 vit 16 1024 24 16 class_token=False global_pool=map
vit_large_patch16_siglip_384 = vit_large_patch16_siglip_256
vit_large_patch16_siglip_512 = vit_large_patch16_siglip_256 act_layer=gelu_tanh
vit_large_patch16_siglip_gap_256 = vit_base_patch16_gap_224 embed_dim=1024 depth=24
vit_large_patch16_siglip_gap_384 = vit_large_patch16_siglip_gap_256
vit_large_patch16_siglip_gap_512 = vit_large_patch16_siglip_gap_256 act_layer=gelu_tanh
vit_large_patch32_224 vit 32 1024 24 16
vit_large_patch32_384 vit 32 1024 24 16
vit_little_patch16_reg1_gap_256 = vit_dlittle_patch16_reg1_gap_256 attn_layer=None
vit_little_patch16_reg4_gap_256 = vit_little_patch16_reg1_gap_256 reg_tokens=4
vit_medium_patch16_clip_224 = vit_base_patch16_clip_224 embed_dim=512 num_heads=8
vit_medium_patch16_gap_240 = vit_betwixt_patch16_gap_256 embed_dim=512 num_heads=8
vit_medium_patch16_gap_256 = vit_medium_patch16_gap_240
vit_medium_patch16_gap_384 = vit_medium_patch16_gap_240
vit_medium_patch16_reg1_gap_256 = vit_betwixt_patch16_reg1_gap_256 embed_dim=512 num_heads=8
vit_medium_patch16_reg4_gap_256 = vit_medium_patch16_reg1_gap_256 reg_tokens=4
vit_medium_patch32_clip_224 = vit_medium_patch16_clip_224 patch_size=32
vit_mediumd_patch16_reg4_gap_256 = vit_medium_patch16_reg4_gap_256 depth=20
vit_mediumd_patch16_reg4_gap_384 = vit_mediumd_patch16_reg4_gap_256
vit_pwee_patch16_reg1_gap_256 = vit_dpwee_patch16_reg1_gap_256 block_fn=ParallelScalingBlock
vit_small_patch14_dinov2 vit 14 384 12 6 init_values=1e-05
vit_small_patch14_reg4_dinov2 = vit_base_patch14_reg4_dinov2 embed_dim=384 num_heads=6
vit_small_patch16_18x2_224 = vit_base_patch16_18x2_224 embed_dim=384 num_heads=6
vit_small_patch16_224 vit 16 384 12 6
vit_small_patch16_36x1_224 vit 16 384 36 6 init_values=1e-05
vit_small_patch16_384 vit 16 384 12 6
vit_small_patch32_224 vit 32 384 12 6
vit_small_patch32_384 vit 32 384 12 6
vit_small_patch8_224 vit 8 384 12 6
vit_so150m2_patch16_reg1_gap_256 = test_vit2 embed_dim=832 depth=21 num_heads=13
  mlp_ratio=2.6153846153846154 qkv_bias=False dynamic_img_size=None
vit_so150m2_patch16_reg1_gap_384 = vit_so150m2_patch16_reg1_gap_256
vit_so150m2_patch16_reg1_gap_448 = vit_so150m2_patch16_reg1_gap_256
vit_so150m_patch16_reg4_gap_256 = vit_base_patch16_gap_224 embed_dim=896 depth=18 num_heads=14
  mlp_ratio=2.572 reg_tokens=4
vit_so150m_patch16_reg4_gap_384 = vit_so150m_patch16_reg4_gap_256
vit_so150m_patch16_reg4_map_256 = vit_so150m_patch16_reg4_gap_256 global_pool=map fc_norm=None
vit_so400m_patch14_reg1_tipsv2 = vit_large_patch14_reg1_tipsv2 embed_dim=1152 depth=27
  mlp_ratio=3.736111111111111
vit_so400m_patch14_siglip_224 vit 14 1152 27 16 mlp_ratio=3.7362 class_token=False global_pool=map
vit_so400m_patch14_siglip_378 = vit_so400m_patch14_siglip_224
vit_so400m_patch14_siglip_384 = vit_so400m_patch14_siglip_224
vit_so400m_patch14_siglip_gap_224 = vit_so400m_patch14_siglip_224 global_pool=avg fc_norm=False
vit_so400m_patch14_siglip_gap_378 = vit_so400m_patch14_siglip_gap_224
vit_so400m_patch14_siglip_gap_384 = vit_so400m_patch14_siglip_gap_224
vit_so400m_patch14_siglip_gap_448 = vit_so400m_patch14_siglip_gap_224
vit_so400m_patch14_siglip_gap_896 = vit_so400m_patch14_siglip_gap_224
vit_so400m_patch16_radio_v4 = vit_huge_patch16_radio_v4 embed_dim=1152 depth=27
  mlp_ratio=3.736111111111111
vit_so400m_patch16_siglip_256 = vit_so400m_patch14_siglip_224 patch_size=16 act_layer=gelu_tanh
vit_so400m_patch16_siglip_384 = vit_so400m_patch16_siglip_256
vit_so400m_patch16_siglip_512 = vit_so400m_patch16_siglip_256
vit_so400m_patch16_siglip_gap_256 = vit_so400m_patch16_siglip_256 global_pool=avg fc_norm=False
vit_so400m_patch16_siglip_gap_384 = vit_so400m_patch16_siglip_gap_256
vit_so400m_patch16_siglip_gap_512 = vit_so400m_patch16_siglip_gap_256
vit_tiny_patch16_224 vit 16 192 12 3
vit_tiny_patch16_384 vit 16 192 12 3
vit_wee_patch16_reg1_gap_256 = vit_dwee_patch16_reg1_gap_256 attn_layer=None
vit_xsmall_patch16_clip_224 vit 16 256 10 4 pre_norm=True norm_layer=layernorm(1e-05)
vit_base_patch16_224_dino = vit_base_patch16_224
vit_base_patch16_224_in21k = vit_base_patch16_224
vit_base_patch16_224_miil_in21k = vit_base_patch16_224_miil
vit_base_patch16_224_sam = vit_base_patch16_224
vit_base_patch32_224_clip_laion2b = vit_base_patch32_clip_224
vit_base_patch32_224_in21k = vit_base_patch32_224
vit_base_patch32_224_sam = vit_base_patch32_224
vit_base_patch8_224_dino = vit_base_patch8_224
vit_base_patch8_224_in21k = vit_base_patch8_224
vit_giant_patch14_224_clip_laion2b = vit_giant_patch14_clip_224
vit_huge_patch14_224_clip_laion2b = vit_huge_patch14_clip_224
vit_huge_patch14_224_in21k = vit_huge_patch14_224
vit_large_patch14_224_clip_laion2b = vit_large_patch14_clip_224
vit_large_patch16_224_in21k = vit_large_patch16_224
vit_large_patch32_224_in21k = vit_large_patch32_224
vit_small_patch16_224_dino = vit_small_patch16_224
vit_small_patch16_224_in21k = vit_small_patch16_224
vit_small_patch32_224_in21k = vit_small_patch32_224
vit_small_patch8_224_dino = vit_small_patch8_224
vit_tiny_patch16_224_in21k = vit_tiny_patch16_224
"""

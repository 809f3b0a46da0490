"""Architectures of timm's eva.py; see `architectures`."""

TABLE = """
eva02_base_patch14_224 eva 14 768 12 12 qkv_fused=False mlp_ratio=2.6666666666666665
  swiglu_mlp=True scale_mlp=True use_rot_pos_emb=True ref_feat_shape=(16,16)
eva02_base_patch14_448 = eva02_base_patch14_224 img_size=448
eva02_base_patch16_clip_224 = eva02_base_patch14_224 patch_size=16 scale_attn_inner=True
  global_pool=token
eva02_enormous_patch14_clip_224 eva 14 1792 64 16 mlp_ratio=8.571428571428571 use_post_norm=True
  global_pool=token
eva02_large_patch14_224 = eva02_base_patch14_224 embed_dim=1024 depth=24 num_heads=16
eva02_large_patch14_448 = eva02_large_patch14_224 img_size=448
eva02_large_patch14_clip_224 = eva02_large_patch14_224 scale_attn_inner=True global_pool=token
eva02_large_patch14_clip_336 = eva02_large_patch14_clip_224 img_size=336
eva02_small_patch14_224 = eva02_base_patch14_224 embed_dim=384 num_heads=6 qkv_fused=None
  scale_mlp=None
eva02_small_patch14_336 = eva02_small_patch14_224 img_size=336
eva02_tiny_patch14_224 = eva02_small_patch14_224 embed_dim=192 num_heads=3
eva02_tiny_patch14_336 = eva02_tiny_patch14_224 img_size=336
eva_giant_patch14_224 eva 14 1408 40 16 mlp_ratio=4.363636363636363
eva_giant_patch14_336 = eva_giant_patch14_224
eva_giant_patch14_560 = eva_giant_patch14_224
eva_giant_patch14_clip_224 = eva_giant_patch14_224 global_pool=token
vit_5b_patch16_sapiens2 eva 16 2432 56 32 img_size=(1024,768) dynamic_img_size=True
  num_kv_heads=by_layer attn_type=rope qkv_fused=False qk_norm=True global_pool=token
  swiglu_mlp=True init_values=1 attn_only_layer_scale=True rope_type=dinov3 rope_temperature=100
  rope_rotate_half=True rope_rescale_coords=2 use_rot_pos_emb=True use_abs_pos_emb=False
  num_reg_tokens=8 use_fc_norm=False norm_layer=rmsnorm(1e-06)
vit_7b_patch16_dinov3 eva 16 4096 40 32 dynamic_img_size=True qkv_bias=False mlp_ratio=2
  init_values=1e-05 rope_type=dinov3 rope_temperature=100 use_rot_pos_emb=True
  use_abs_pos_emb=False rope_rotate_half=True swiglu_mlp=True swiglu_align_to=64 num_reg_tokens=4
  use_fc_norm=False norm_layer=layernorm(1e-05)
vit_base_patch16_dinov3 = vit_7b_patch16_dinov3 embed_dim=768 depth=12 num_heads=12 mlp_ratio=None
  swiglu_mlp=None swiglu_align_to=None
vit_base_patch16_dinov3_qkvb = vit_base_patch16_dinov3 qkv_bias=None
vit_base_patch16_lingbot = vit_base_patch16_dinov3_qkvb global_pool=token
vit_base_patch16_rope_224 = vit_base_patch16_lingbot attn_type=rope rope_grid_indexing=xy
  dynamic_img_size=None rope_type=None rope_rotate_half=None num_reg_tokens=None norm_layer=None
vit_base_patch16_rope_ape_224 = vit_base_patch16_rope_224 no_embed_class=True use_fc_norm=None
  use_abs_pos_emb=None
vit_base_patch16_rope_mixed_224 = vit_base_patch16_rope_224 rope_temperature=10 rope_type=mixed
  use_fc_norm=None
vit_base_patch16_rope_mixed_ape_224 = vit_base_patch16_rope_ape_224 rope_temperature=10
  rope_type=mixed
vit_base_patch16_rope_reg1_gap_256 eva 16 768 12 12 img_size=256 init_values=1e-05
  class_token=False num_reg_tokens=1 use_rot_pos_emb=True use_abs_pos_emb=False
  ref_feat_shape=(16,16)
vit_base_patch16_sapiens2 = vit_5b_patch16_sapiens2 embed_dim=768 depth=12 num_heads=12
vit_betwixt_patch16_rope_reg4_gap_256 = vit_base_patch16_rope_reg1_gap_256 embed_dim=640
  num_heads=10 num_reg_tokens=4
vit_giant_patch16_lingbot = vit_7b_patch16_dinov3 embed_dim=1536 num_heads=24 global_pool=token
  mlp_ratio=2.6666666666666665 swiglu_align_to=8
vit_giant_patch16_sapiens2 = vit_5b_patch16_sapiens2 embed_dim=1536 depth=40 num_heads=24
vit_huge_patch16_sapiens2 = vit_5b_patch16_sapiens2 embed_dim=1280 depth=32 num_heads=16
vit_huge_plus_patch16_dinov3 = vit_7b_patch16_dinov3 embed_dim=1280 depth=32 num_heads=20
  swiglu_align_to=8 mlp_ratio=None
vit_huge_plus_patch16_dinov3_qkvb = vit_huge_plus_patch16_dinov3 qkv_bias=None
vit_large_patch16_dinov3 = vit_base_patch16_dinov3 embed_dim=1024 depth=24 num_heads=16
vit_large_patch16_dinov3_qkvb = vit_large_patch16_dinov3 qkv_bias=None
vit_large_patch16_lingbot = vit_large_patch16_dinov3_qkvb global_pool=token
vit_large_patch16_rope_224 = vit_base_patch16_rope_224 embed_dim=1024 depth=24 num_heads=16
  use_fc_norm=None
vit_large_patch16_rope_ape_224 = vit_base_patch16_rope_ape_224 embed_dim=1024 depth=24
  num_heads=16
vit_large_patch16_rope_mixed_224 = vit_large_patch16_rope_224 rope_temperature=10 rope_type=mixed
vit_large_patch16_rope_mixed_ape_224 = vit_large_patch16_rope_ape_224 rope_temperature=10
  rope_type=mixed
vit_large_patch16_sapiens2 = vit_huge_patch16_sapiens2 embed_dim=1024 depth=24
vit_medium_patch16_rope_reg1_gap_256 = vit_base_patch16_rope_reg1_gap_256 embed_dim=512
  num_heads=8
vit_mediumd_patch16_rope_reg1_gap_256 = vit_medium_patch16_rope_reg1_gap_256 depth=20
  qkv_bias=False
vit_pe_core_base_patch16_224 eva 16 768 12 12 global_pool=map attn_type=rope
  use_pre_transformer_norm=True use_rot_pos_emb=True ref_feat_shape=(14,14) rope_grid_offset=1
  rope_grid_indexing=xy attn_pool_num_heads=8 attn_pool_mlp_ratio=4 norm_layer=layernorm(1e-05)
vit_pe_core_gigantic_patch14_448 = vit_pe_core_base_patch16_224 patch_size=14 embed_dim=1536
  depth=50 num_heads=16 mlp_ratio=5.833333333333333 class_token=False ref_feat_shape=(32,32)
  rope_grid_offset=None
vit_pe_core_large_patch14_336 = vit_pe_core_base_patch16_224 patch_size=14 embed_dim=1024 depth=24
  num_heads=16 ref_feat_shape=(24,24)
vit_pe_core_small_patch16_384 = vit_pe_core_base_patch16_224 embed_dim=384 num_heads=6
  ref_feat_shape=(24,24)
vit_pe_core_tiny_patch16_384 = vit_pe_core_small_patch16_384 embed_dim=192 num_heads=3
vit_pe_lang_gigantic_patch14_448 = vit_pe_core_gigantic_patch14_448 depth=47
  use_post_transformer_norm=False use_fc_norm=False init_values=0.1 global_pool=None
  attn_pool_num_heads=None attn_pool_mlp_ratio=None
vit_pe_lang_large_patch14_448 = vit_pe_lang_gigantic_patch14_448 embed_dim=1024 depth=23
  rope_grid_offset=1 mlp_ratio=None class_token=None
vit_pe_spatial_base_patch16_512 = vit_pe_lang_large_patch14_448 patch_size=16 embed_dim=768
  depth=12 num_heads=12 init_values=None
vit_pe_spatial_gigantic_patch14_448 = vit_pe_lang_gigantic_patch14_448 depth=50
vit_pe_spatial_large_patch14_448 = vit_pe_lang_large_patch14_448 depth=24 init_values=None
vit_pe_spatial_small_patch16_512 = vit_pe_spatial_base_patch16_512 embed_dim=384 num_heads=6
vit_pe_spatial_tiny_patch16_512 = vit_pe_spatial_base_patch16_512 embed_dim=192 num_heads=3
vit_small_patch16_dinov3 = vit_base_patch16_dinov3 embed_dim=384 num_heads=6
vit_small_patch16_dinov3_qkvb = vit_small_patch16_dinov3 qkv_bias=None
vit_small_patch16_lingbot = vit_small_patch16_dinov3_qkvb global_pool=token
vit_small_patch16_rope_224 = vit_large_patch16_rope_224 embed_dim=384 depth=12 num_heads=6
vit_small_patch16_rope_ape_224 = vit_base_patch16_rope_ape_224 embed_dim=384 num_heads=6
vit_small_patch16_rope_mixed_224 = vit_base_patch16_rope_mixed_224 embed_dim=384 num_heads=6
vit_small_patch16_rope_mixed_ape_224 = vit_base_patch16_rope_mixed_ape_224 embed_dim=384
  num_heads=6
vit_small_plus_patch16_dinov3 = vit_small_patch16_dinov3 swiglu_mlp=True swiglu_align_to=8
vit_small_plus_patch16_dinov3_qkvb = vit_small_plus_patch16_dinov3 qkv_bias=None
vit_tiny_patch16_dinov3_qkvb = vit_base_patch16_dinov3_qkvb embed_dim=192 num_heads=3
"""

"""Architectures of timm's deit.py, hybrid, beit.py, relpos, and BiT; see `architectures`."""

TABLE = """
deit3_base_patch16_224 vit 16 768 12 12 no_embed_class=True init_values=1e-06
deit3_base_patch16_384 = deit3_base_patch16_224
deit3_huge_patch14_224 vit 14 1280 32 16 no_embed_class=True init_values=1e-06
deit3_large_patch16_224 vit 16 1024 24 16 no_embed_class=True init_values=1e-06
deit3_large_patch16_384 = deit3_large_patch16_224
deit3_medium_patch16_224 = deit3_base_patch16_224 embed_dim=512 num_heads=8
deit3_small_patch16_224 = deit3_base_patch16_224 embed_dim=384 num_heads=6
deit3_small_patch16_384 = deit3_small_patch16_224
deit_base_distilled_patch16_224 distilled 16 768 12 12
deit_base_distilled_patch16_384 distilled 16 768 12 12
deit_base_patch16_224 vit 16 768 12 12
deit_base_patch16_384 vit 16 768 12 12
deit_small_distilled_patch16_224 distilled 16 384 12 6
deit_small_patch16_224 vit 16 384 12 6
deit_tiny_distilled_patch16_224 distilled 16 192 12 3
deit_tiny_patch16_224 vit 16 192 12 3
vit_base_mci_224 vit 1 768 12 12 no_embed_class=True embed_layer=ConvStem
vit_base_r26_s32_224 vit 1 768 12 12 embed_layer=ResNetV2
vit_base_r50_s16_224 = vit_base_r26_s32_224
vit_base_r50_s16_384 = vit_base_r26_s32_224
vit_base_resnet26d_224 vit 1 768 12 12 embed_layer=FeatureListNet
vit_base_resnet50d_224 = vit_base_resnet26d_224
vit_large_r50_s32_224 vit 1 1024 24 16 embed_layer=ResNetV2
vit_large_r50_s32_384 = vit_large_r50_s32_224
vit_small_r26_s32_224 vit 1 384 12 6 embed_layer=ResNetV2
vit_small_r26_s32_384 = vit_small_r26_s32_224
vit_small_resnet26d_224 vit 1 768 8 8 mlp_ratio=3 embed_layer=FeatureListNet
vit_small_resnet50d_s16_224 = vit_small_resnet26d_224
vit_tiny_r_s16_p8_224 vit 8 192 12 3 embed_layer=Sequential
vit_tiny_r_s16_p8_384 = vit_tiny_r_s16_p8_224
beit_base_patch16_224 beit 16 768 12 12 use_abs_pos_emb=False use_rel_pos_bias=True
  init_values=0.1
beit_base_patch16_384 = beit_base_patch16_224 img_size=384
beit_large_patch16_224 = beit_base_patch16_224 embed_dim=1024 depth=24 num_heads=16
  init_values=1e-05
beit_large_patch16_384 = beit_large_patch16_224 img_size=384
beit_large_patch16_512 = beit_large_patch16_224 img_size=512
beitv2_base_patch16_224 = beit_base_patch16_224 init_values=1e-05
beitv2_large_patch16_224 = beit_large_patch16_224
test_vit_relpos relpos 16 96 9 3 mlp_ratio=2 qkv_bias=False fc_norm=True
vit_relpos_base_patch16_224 relpos 16 768 12 12 qkv_bias=False fc_norm=True
vit_relpos_base_patch16_cls_224 relpos 16 768 12 12 qkv_bias=False class_token=True
  global_pool=token
vit_relpos_base_patch16_clsgap_224 = vit_relpos_base_patch16_224 class_token=True
vit_relpos_base_patch16_plus_240 relpos 16 896 12 14
vit_relpos_base_patch16_rpn_224 relpos 16 768 12 12 qkv_bias=False block_fn=ResPostRelPosBlock
vit_relpos_base_patch32_plus_rpn_256 relpos 32 896 12 14 block_fn=ResPostRelPosBlock
vit_relpos_medium_patch16_224 relpos 16 512 12 8 qkv_bias=False fc_norm=True
vit_relpos_medium_patch16_cls_224 = vit_relpos_base_patch16_cls_224 embed_dim=512 num_heads=8
  rel_pos_dim=256
vit_relpos_medium_patch16_rpn_224 = vit_relpos_base_patch16_rpn_224 embed_dim=512 num_heads=8
vit_relpos_small_patch16_224 relpos 16 384 12 6 qkv_bias=False fc_norm=True
vit_relpos_small_patch16_rpn_224 = vit_relpos_base_patch16_rpn_224 embed_dim=384 num_heads=6
vit_srelpos_medium_patch16_224 relpos 16 512 12 8 qkv_bias=False rel_pos_dim=512
  shared_rel_pos=True
vit_srelpos_small_patch16_224 relpos 16 384 12 6 qkv_bias=False rel_pos_dim=384
  shared_rel_pos=True
deit3_base_patch16_224_in21ft1k = deit3_base_patch16_224
deit3_base_patch16_384_in21ft1k = deit3_base_patch16_384
deit3_huge_patch14_224_in21ft1k = deit3_huge_patch14_224
deit3_large_patch16_224_in21ft1k = deit3_large_patch16_224
deit3_large_patch16_384_in21ft1k = deit3_large_patch16_384
deit3_medium_patch16_224_in21ft1k = deit3_medium_patch16_224
deit3_small_patch16_224_in21ft1k = deit3_small_patch16_224
deit3_small_patch16_384_in21ft1k = deit3_small_patch16_384
vit_base_r50_s16_224_in21k = vit_base_r50_s16_224
vit_base_resnet50_224_in21k = vit_base_r50_s16_224
vit_base_resnet50_384 = vit_base_r50_s16_384
vit_large_r50_s32_224_in21k = vit_large_r50_s32_224
vit_small_r26_s32_224_in21k = vit_small_r26_s32_224
vit_tiny_r_s16_p8_224_in21k = vit_tiny_r_s16_p8_224
resnetv2_50x1_bit bit stem_type=fixed layers=(3,4,6,3) width_factor=1
resnetv2_50x1_bitm = resnetv2_50x1_bit
resnetv2_50x1_bitm_in21k = resnetv2_50x1_bit
resnetv2_50x3_bit bit stem_type=fixed layers=(3,4,6,3) width_factor=3
resnetv2_50x3_bitm = resnetv2_50x3_bit
resnetv2_50x3_bitm_in21k = resnetv2_50x3_bit
resnetv2_101x1_bit bit stem_type=fixed layers=(3,4,23,3) width_factor=1
resnetv2_101x1_bitm = resnetv2_101x1_bit
resnetv2_101x1_bitm_in21k = resnetv2_101x1_bit
resnetv2_101x3_bit bit stem_type=fixed layers=(3,4,23,3) width_factor=3
resnetv2_101x3_bitm = resnetv2_101x3_bit
resnetv2_101x3_bitm_in21k = resnetv2_101x3_bit
resnetv2_152x2_bit bit stem_type=fixed layers=(3,8,36,3) width_factor=2
resnetv2_152x2_bitm = resnetv2_152x2_bit
resnetv2_152x2_bitm_in21k = resnetv2_152x2_bit
resnetv2_152x4_bit bit stem_type=fixed layers=(3,8,36,3) width_factor=4
resnetv2_152x4_bitm = resnetv2_152x4_bit
resnetv2_152x4_bitm_in21k = resnetv2_152x4_bit
resnetv2_152x2_bit_teacher = resnetv2_152x2_bit
resnetv2_152x2_bit_teacher_384 = resnetv2_152x2_bit
resnetv2_50x1_bit_distilled = resnetv2_50x1_bit
"""

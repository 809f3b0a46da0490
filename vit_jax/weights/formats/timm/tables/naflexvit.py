"""Architectures of timm's naflexvit.py, from its configurations; see `architectures`."""

TABLE = """
naflexvit_base_patch16_gap naflex 16 768 12 12 init_values=1e-05 global_pool=avg reg_tokens=4
  fc_norm=True
naflexvit_base_patch16_map naflex 16 768 12 12 init_values=1e-05 global_pool=map reg_tokens=1
naflexvit_base_patch16_par_gap = naflexvit_base_patch16_gap pos_embed_ar_preserving=True
naflexvit_base_patch16_parfac_gap = naflexvit_base_patch16_par_gap pos_embed=factorized
naflexvit_base_patch16_siglip naflex 16 768 12 12 act_layer=gelu_tanh global_pool=map
  pos_embed_interp_mode=bilinear
naflexvit_so150m2_patch16_reg1_gap naflex 16 832 21 13 mlp_ratio=2.6153846153846154
  init_values=1e-05 qkv_bias=False reg_tokens=1 global_pool=avg fc_norm=True
naflexvit_so150m2_patch16_reg1_map naflex 16 832 21 13 mlp_ratio=2.6153846153846154
  init_values=1e-05 qkv_bias=False reg_tokens=1 global_pool=map
naflexvit_so400m_patch16_siglip naflex 16 1152 27 16 mlp_ratio=3.7362 act_layer=gelu_tanh
  global_pool=map pos_embed_interp_mode=bilinear
"""

// Per-token scale and zero point, from the storage and the element type that the variant's key names.
// Needs bindings `scale` and `zp`. Images hold one token a texel, folded at the image's width.
#include "elements.glsl"

#if defined(SCALE_IMAGE) || defined(ZP_IMAGE)
ivec2 token_texel(uint token, int width) {
  return ivec2(int(token) % width, int(token) / width);
}
#endif

#ifndef QPARAMS_WRITE
float load_scale(uint token) {
#ifdef SCALE_IMAGE
  return imageLoad(scale, token_texel(token, imageSize(scale).x)).x;
#else
  return scale[token];
#endif
}

int load_zero_point(uint token) {
#ifdef ZP_IMAGE
  return int(imageLoad(zp, token_texel(token, imageSize(zp).x)).x);
#else
#if defined(ZP_I8) || defined(ZP_I32)
  return int(ZP_AT(token));
#else
  return int(float(ZP_AT(token)));
#endif
#endif
}
#else
void store_scale(uint token, float value) {
#ifdef SCALE_IMAGE
  imageStore(scale, token_texel(token, imageSize(scale).x), vec4(value, 0.0, 0.0, 0.0));
#else
  scale[token] = value;
#endif
}

void store_zero_point(uint token, int value) {
#ifdef ZP_IMAGE
#if defined(ZP_I8) || defined(ZP_I32)
  imageStore(zp, token_texel(token, imageSize(zp).x), ivec4(value, 0, 0, 0));
#else
  imageStore(zp, token_texel(token, imageSize(zp).x), vec4(float(value), 0.0, 0.0, 0.0));
#endif
#else
#if defined(ZP_I8)
  PUT_BYTE(zp, token, value)
#elif defined(ZP_I32)
  zp[token] = ZP_TYPE(value);
#elif defined(ZP_F16)
  PUT_HALF(zp, token, float(value))
#else
  zp[token] = ZP_TYPE(float(value));
#endif
#endif
}
#endif

// CIELAB conversion on a CPU, both ways: what kernels/rgb_to_lab.py and kernels/lab_to_rgb.py do on
// a CUDA device. The constants in capitals are those of kernels/lab.py, which kernels/native.py puts
// in front of this text.
//
// What bounds it: arithmetic, not memory. Loops over a short piece of a row are what compilers turn
// into vector code; the piece stays in the first-level cache. A cube root costs no division.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t PIECE = 256;  // pixels

template <typename To, typename From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "of one size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

inline void store(float value, float& to) { to = value; }

// Both round to nearest, ties to even.
inline void store(float value, BFloat& to) {
  const uint32_t bits = bits_as<uint32_t>(value);
  to.bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline void store(float value, Half& to) {
  const uint32_t bits = bits_as<uint32_t>(value), magnitude = bits & 0x7fffffff;
  // Below 2^-14 halves are multiples of 2^-24, as floats from 0.5 to 1 are.
  const uint32_t small = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000;
  const uint32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const uint32_t finite = magnitude < 0x38800000 ? small : normal;
  const uint32_t rounded = magnitude < 0x477ff000 ? finite : 0x7c00;
  to.bits = static_cast<uint16_t>(rounded | ((bits >> 16) & 0x8000));
}

inline float load(float from) { return from; }
inline float load(BFloat from) { return bits_as<float>(static_cast<uint32_t>(from.bits) << 16); }
inline float load(Half from) {
  const uint32_t magnitude = (from.bits & 0x7fffu) << 13, sign = (from.bits & 0x8000u) << 16;
  const float scaled = bits_as<float>(magnitude) * bits_as<float>(0x77800000u);  // 2^112
  return bits_as<float>(bits_as<uint32_t>(scaled) | sign);
}

// t^(1/3) of a normal t > 0, within 4 units in the last place: r = t^(-1/3) from the exponent, within
// 4 %, then twice r (1 + c/3 + 2/9 c^2) with c = 1 - t r^3, which cubes the error; t r^2 is the root.
inline float cube_root(float t) {
  const float exponent = static_cast<float>(bits_as<int32_t>(t));
  float r = bits_as<float>(static_cast<int32_t>(1419967116.0f - exponent * (1.0f / 3.0f)));
  for (int i = 0; i < 2; ++i) {
    const float c = 1.0f - t * r * r * r;
    r += r * c * (1.0f / 3.0f + c * (2.0f / 9.0f));
  }
  return t * r * r;
}

inline float f(float t) {
  const float root = cube_root(t > F_KNEE ? t : F_KNEE);
  return t > F_KNEE ? root : F_SLOPE * t + F_OFFSET;
}

inline float f_inverse(float f) {
  return f > F_INVERSE_KNEE ? f * f * f : (f - F_OFFSET) * (1.0f / F_SLOPE);
}

// sRGB's curve. t^(1/2.4) is the fifth power of the fourth root of the cube root.
inline float compand(float linear) {
  const float root = cube_root(linear > LINEAR_KNEE ? linear : LINEAR_KNEE);
  const float power = root * std::sqrt(std::sqrt(root));
  const float encoded = (1.0f + SRGB_OFFSET) * power - SRGB_OFFSET;
  return linear > LINEAR_KNEE ? encoded : linear * SRGB_SLOPE;
}

inline uint8_t level(float companded) {
  const float clipped = companded < 0.0f ? 0.0f : companded > 1.0f ? 1.0f : companded;
  // Adding 2^23 rounds to an integer, ties to even.
  return static_cast<uint8_t>(bits_as<uint32_t>(clipped * 255.0f + 8388608.0f) & 0xff);
}

struct Scaling {
  float l, l_offset, a, b;
};

template <int64_t ab_step, typename Out>
void row_to_lab(const uint8_t* red, const uint8_t* green, const uint8_t* blue, int64_t step,
                int64_t width, const float* linear, Scaling scaling, Out* lightness, Out* a, Out* b) {
  for (int64_t start = 0; start < width; start += PIECE) {
    const int64_t count = width - start < PIECE ? width - start : PIECE;
    float r[PIECE], g[PIECE], b_[PIECE];
    for (int64_t i = 0; i < count; ++i) {
      r[i] = linear[red[(start + i) * step]];
      g[i] = linear[green[(start + i) * step]];
      b_[i] = linear[blue[(start + i) * step]];
    }
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const float fx = f(X_RED * r[i] + X_GREEN * g[i] + X_BLUE * b_[i]);
      const float fy = f(Y_RED * r[i] + Y_GREEN * g[i] + Y_BLUE * b_[i]);
      const float fz = f(Z_RED * r[i] + Z_GREEN * g[i] + Z_BLUE * b_[i]);
      store(scaling.l * fy + scaling.l_offset, lightness[start + i]);
      store(scaling.a * (fx - fy), a[(start + i) * ab_step]);
      store(scaling.b * (fy - fz), b[(start + i) * ab_step]);
    }
  }
}

template <typename Out>
void to_lab(const uint8_t* frames, const int64_t* strides, const int64_t* windows, int64_t count,
            int64_t height, int64_t width, const float* linear, Scaling scaling, Out* lightness,
            Out* ab, bool channels_last, int threads) {
  const int64_t area = height * width;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t place = 0; place < count * height; ++place) {
    const int64_t image = place / height, y = place % height;
    const int64_t* window = windows + 3 * image;
    const uint8_t* red = frames + image * strides[0] + (window[0] + y) * strides[2] +
                         (window[1] + (window[2] ? width - 1 : 0)) * strides[3];
    const uint8_t *green = red + strides[1], *blue = green + strides[1];
    const int64_t step = window[2] ? -strides[3] : strides[3];
    Out *l_row = lightness + place * width, *ab_image = ab + 2 * image * area;
    if (channels_last) {
      Out* a_row = ab_image + 2 * y * width;
      row_to_lab<2>(red, green, blue, step, width, linear, scaling, l_row, a_row, a_row + 1);
    } else {
      Out* a_row = ab_image + y * width;
      row_to_lab<1>(red, green, blue, step, width, linear, scaling, l_row, a_row, a_row + area);
    }
  }
}

template <typename In>
void to_rgb(const In* lightness, const int64_t* l_strides, const In* ab, const int64_t* ab_strides,
            int64_t count, int64_t height, int64_t width, Scaling scaling, uint8_t* rgb,
            const int64_t* strides, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t place = 0; place < count * height; ++place) {
    const int64_t image = place / height, y = place % height;
    const In* l_row = lightness + image * l_strides[0] + y * l_strides[2];
    const In* a_row = ab + image * ab_strides[0] + y * ab_strides[2];
    const In* b_row = a_row + ab_strides[1];
    uint8_t* red = rgb + image * strides[0] + y * strides[2];
    for (int64_t start = 0; start < width; start += PIECE) {
      const int64_t piece = width - start < PIECE ? width - start : PIECE;
      uint8_t levels[3][PIECE];
      float lab[3][PIECE];
      for (int64_t i = 0; i < piece; ++i) {
        lab[0][i] = load(l_row[(start + i) * l_strides[3]]);
        lab[1][i] = load(a_row[(start + i) * ab_strides[3]]);
        lab[2][i] = load(b_row[(start + i) * ab_strides[3]]);
      }
#pragma omp simd
      for (int64_t i = 0; i < piece; ++i) {
        const float fy = scaling.l * lab[0][i] + scaling.l_offset;
        const float fz = fy - scaling.b * lab[2][i];
        const float x = f_inverse(fy + scaling.a * lab[1][i]), yy = f_inverse(fy);
        const float z = f_inverse(fz > 0.0f ? fz : 0.0f);
        levels[0][i] = level(compand(RED_X * x + RED_Y * yy + RED_Z * z));
        levels[1][i] = level(compand(GREEN_X * x + GREEN_Y * yy + GREEN_Z * z));
        levels[2][i] = level(compand(BLUE_X * x + BLUE_Y * yy + BLUE_Z * z));
      }
      for (int64_t i = 0; i < piece; ++i)
        for (int64_t c = 0; c < 3; ++c)
          red[(start + i) * strides[3] + c * strides[1]] = levels[c][i];
    }
  }
}

}  // namespace

// Types by number, as in kernels/native.py: fp32, fp16, bf16. Strides are those of (N, C, H, W).

extern "C" void rgb_to_lab(const uint8_t* frames, const int64_t* strides, const int64_t* windows,
                           int64_t count, int64_t height, int64_t width, const float* linear,
                           const float* scaling, int type, void* lightness, void* ab,
                           int channels_last, int threads) {
  const Scaling given{scaling[0], scaling[1], scaling[2], scaling[3]};
  const auto run = [&](auto* l, auto* ab_) {
    to_lab(frames, strides, windows, count, height, width, linear, given, l, ab_, channels_last,
           threads);
  };
  if (type == 0) run(static_cast<float*>(lightness), static_cast<float*>(ab));
  if (type == 1) run(static_cast<Half*>(lightness), static_cast<Half*>(ab));
  if (type == 2) run(static_cast<BFloat*>(lightness), static_cast<BFloat*>(ab));
}

extern "C" void lab_to_rgb(const void* lightness, const int64_t* l_strides, const void* ab,
                           const int64_t* ab_strides, int64_t count, int64_t height, int64_t width,
                           const float* scaling, int type, uint8_t* rgb, const int64_t* strides,
                           int threads) {
  const Scaling given{scaling[0], scaling[1], scaling[2], scaling[3]};
  const auto run = [&](const auto* l, const auto* ab_) {
    to_rgb(l, l_strides, ab_, ab_strides, count, height, width, given, rgb, strides, threads);
  };
  if (type == 0) run(static_cast<const float*>(lightness), static_cast<const float*>(ab));
  if (type == 1) run(static_cast<const Half*>(lightness), static_cast<const Half*>(ab));
  if (type == 2) run(static_cast<const BFloat*>(lightness), static_cast<const BFloat*>(ab));
}

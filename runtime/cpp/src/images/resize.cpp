#include "images/resize.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace vprm::internal {

namespace {

constexpr int kChannels = 3;
constexpr int kPrecisionBits = 32 - 8 - 2;
constexpr double kSupport = 2.0;

double bicubic(double x) {
    constexpr double a = -0.5;
    x = std::fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

// For every output pixel the first input pixel, and the weights of it and its successors.
struct Filter {
    struct Span {
        int first, count;
    };
    std::vector<Span> spans;
    std::vector<std::int32_t> weights;  // [outputs, most]
    std::size_t most;

    const std::int32_t *weights_of(int output) const { return weights.data() + most * static_cast<std::size_t>(output); }
};

Filter filter_for(int inputs, int outputs) {
    const double scale = static_cast<double>(inputs) / outputs;
    const double filter_scale = std::max(scale, 1.0);
    const double support = kSupport * filter_scale;
    Filter filter;
    filter.most = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
    filter.spans.resize(static_cast<std::size_t>(outputs));
    filter.weights.assign(filter.most * static_cast<std::size_t>(outputs), 0);
    std::vector<double> exact(filter.most);
    for (int output = 0; output < outputs; output++) {
        const double center = (output + 0.5) * scale;
        const double step = 1.0 / filter_scale;
        const int first = std::max(static_cast<int>(center - support + 0.5), 0);
        const int count = std::min(static_cast<int>(center + support + 0.5), inputs) - first;
        double sum = 0.0;
        for (int i = 0; i < count; i++) {
            exact[i] = bicubic((i + first - center + 0.5) * step);
            sum += exact[i];
        }
        std::int32_t *weights = filter.weights.data() + filter.most * static_cast<std::size_t>(output);
        for (int i = 0; i < count; i++) {
            const double weight = (sum != 0.0 ? exact[i] / sum : exact[i]) * (1 << kPrecisionBits);
            weights[i] = static_cast<std::int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        filter.spans[static_cast<std::size_t>(output)] = {first, count};
    }
    return filter;
}

std::uint8_t clipped(std::int32_t sum) {
    return static_cast<std::uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255));
}

constexpr std::int32_t kHalf = 1 << (kPrecisionBits - 1);

Pixels resized_in_width(const PixelView &image, int width_px) {
    const Filter filter = filter_for(image.width_px, width_px);
    Pixels result{width_px, image.height_px, {}};
    result.bytes.resize(static_cast<std::size_t>(width_px) * image.height_px * kChannels);
    for (int y = 0; y < image.height_px; y++) {
        const std::uint8_t *from = image.row(y);
        std::uint8_t *to = result.bytes.data() + static_cast<std::size_t>(y) * width_px * kChannels;
        for (int x = 0; x < width_px; x++) {
            const auto [first, count] = filter.spans[static_cast<std::size_t>(x)];
            const std::int32_t *weights = filter.weights_of(x);
            std::int32_t red = kHalf, green = kHalf, blue = kHalf;
            const std::uint8_t *pixel = from + static_cast<std::size_t>(first) * kChannels;
            for (int i = 0; i < count; i++, pixel += kChannels) {
                red += pixel[0] * weights[i];
                green += pixel[1] * weights[i];
                blue += pixel[2] * weights[i];
            }
            to[x * kChannels] = clipped(red);
            to[x * kChannels + 1] = clipped(green);
            to[x * kChannels + 2] = clipped(blue);
        }
    }
    return result;
}

Pixels resized_in_height(const PixelView &image, int height_px) {
    const Filter filter = filter_for(image.height_px, height_px);
    const std::size_t row_bytes = static_cast<std::size_t>(image.width_px) * kChannels;
    Pixels result{image.width_px, height_px, {}};
    result.bytes.resize(row_bytes * static_cast<std::size_t>(height_px));
    std::vector<std::int32_t> sums(row_bytes);
    for (int y = 0; y < height_px; y++) {
        const auto [first, count] = filter.spans[static_cast<std::size_t>(y)];
        const std::int32_t *weights = filter.weights_of(y);
        std::fill(sums.begin(), sums.end(), kHalf);
        for (int i = 0; i < count; i++) {
            const std::uint8_t *from = image.row(first + i);
            for (std::size_t x = 0; x < row_bytes; x++) sums[x] += from[x] * weights[i];
        }
        std::uint8_t *to = result.bytes.data() + row_bytes * static_cast<std::size_t>(y);
        for (std::size_t x = 0; x < row_bytes; x++) to[x] = clipped(sums[x]);
    }
    return result;
}

Pixels copied(const PixelView &image) {
    const std::size_t row_bytes = static_cast<std::size_t>(image.width_px) * kChannels;
    Pixels result{image.width_px, image.height_px, {}};
    result.bytes.resize(row_bytes * static_cast<std::size_t>(image.height_px));
    for (int y = 0; y < image.height_px; y++)
        std::memcpy(result.bytes.data() + row_bytes * static_cast<std::size_t>(y), image.row(y), row_bytes);
    return result;
}

}  // namespace

Pixels resized(const PixelView &image, int width_px, int height_px) {
    if (image.width_px == width_px)
        return image.height_px == height_px ? copied(image) : resized_in_height(image, height_px);
    Pixels wide = resized_in_width(image, width_px);
    return wide.height_px == height_px ? wide : resized_in_height(wide.view(), height_px);
}

}  // namespace vprm::internal

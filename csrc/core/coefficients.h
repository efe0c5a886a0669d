// Coefficients of the elementary functions, constant term first; derived by tools/coefficients.py
// except where a source is named. Constant expressions, so that device code has them as immediate
// operands.
#pragma once

#include "core/macros.h"

namespace fastinit::coef {

// log(1 + f) = f + f^2 P(f), f in [sqrt(1/2) - 1, sqrt(2) - 1].
FASTINIT_TABLE float kLog32[] = {-0.500003235f, 0.333347149f, -0.249712274f, 0.199068856f,
                                 -0.17243243f,  0.161804803f, -0.100822857f};
constexpr float kLn2 = 0.693147182f;
// log((1 + s) / (1 - s)) = 2 s + s z R(z), z = s^2, s = f / (f + 2).
FASTINIT_TABLE double kLog64[] = {0x1.5555555555555p-1, 0x1.9999999999a38p-2, 0x1.2492492476c87p-2,
                                  0x1.c71c720160b47p-3, 0x1.745cf901605f7p-3, 0x1.3b1c360763b8ap-3,
                                  0x1.0fbe83c2cbcf3p-3, 0x1.0c04595972ab8p-3};
// The high part has 33 bits, so its product with an exponent is exact.
constexpr double kLn2Hi = 0x1.62e42fefp-1, kLn2Lo = 0x1.473de6af278edp-34;

// sin(pi y / 2) = y S(y^2), cos(pi y / 2) = C(y^2), |y| <= 1/2.
FASTINIT_TABLE float kSin32[] = {1.57079632f, -0.645963461f, 0.0796800376f, -0.00460166898f};
FASTINIT_TABLE float kCos32[] = {0.999999968f, -1.23369667f, 0.253594976f, -0.0203986468f};
FASTINIT_TABLE double kSin64[] = {
    0x1.921fb54442d18p+0,  -0x1.4abbce625be53p-1,  0x1.466bc6775aad9p-4,  -0x1.32d2cce62ac22p-8,
    0x1.50783485cbd83p-13, -0x1.e3074b4ff3058p-19, 0x1.e8eed12ee00a3p-25, -0x1.6c5b875d4e739p-31};
FASTINIT_TABLE double kCos64[] = {1.0,
                                  -0x1.3bd3cc9be45dep+0,
                                  0x1.03c1f081b5ac4p-2,
                                  -0x1.55d3c7e3cbfedp-6,
                                  0x1.e1f5068919a8ap-11,
                                  -0x1.a6d1f29f1c7fap-16,
                                  0x1.f9d3854812ae6p-22,
                                  -0x1.b6dd6cfa280afp-28,
                                  0x1.1e2a69fa47a81p-34};

// Normal quantile: Wichura, "Algorithm AS 241", Applied Statistics 37 (1988), PPND7 and PPND16.
// A/B in 0.180625 - d^2; C/D in r - 1.6 for r <= 5 and E/F in r - 5 beyond, r = sqrt(-log p).
FASTINIT_TABLE float kA32[] = {3.3871327179e+00f, 5.0434271938e+01f, 1.5929113202e+02f,
                               5.9109374720e+01f};
FASTINIT_TABLE float kB32[] = {1.0f, 1.7895169469e+01f, 7.8757757664e+01f, 6.7187563600e+01f};
FASTINIT_TABLE float kC32[] = {1.4234372777e+00f, 2.7568153900e+00f, 1.3067284816e+00f,
                               1.7023821103e-01f};
FASTINIT_TABLE float kD32[] = {1.0f, 7.3700164250e-01f, 1.2021132975e-01f};
FASTINIT_TABLE float kE32[] = {6.6579051150e+00f, 3.0812263860e+00f, 4.2868294337e-01f,
                               1.7337203997e-02f};
FASTINIT_TABLE float kF32[] = {1.0f, 2.4197894225e-01f, 1.2258202635e-02f};

FASTINIT_TABLE double kA64[] = {3.3871328727963666080e0,  1.3314166789178437745e+2,
                                1.9715909503065514427e+3, 1.3731693765509461125e+4,
                                4.5921953931549871457e+4, 6.7265770927008700853e+4,
                                3.3430575583588128105e+4, 2.5090809287301226727e+3};
FASTINIT_TABLE double kB64[] = {1.0,
                                4.2313330701600911252e+1,
                                6.8718700749205790830e+2,
                                5.3941960214247511077e+3,
                                2.1213794301586595867e+4,
                                3.9307895800092710610e+4,
                                2.8729085735721942674e+4,
                                5.2264952788528545610e+3};
FASTINIT_TABLE double kC64[] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                                5.76949722146069140550e0,  3.64784832476320460504e0,
                                1.27045825245236838258e0,  2.41780725177450611770e-1,
                                2.27238449892691845833e-2, 7.74545014278341407640e-4};
FASTINIT_TABLE double kD64[] = {1.0,
                                2.05319162663775882187e0,
                                1.67638483018380384940e0,
                                6.89767334985100004550e-1,
                                1.48103976427480074590e-1,
                                1.51986665636164571966e-2,
                                5.47593808499534494600e-4,
                                1.05075007164441684324e-9};
FASTINIT_TABLE double kE64[] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                                1.78482653991729133580e0,  2.96560571828504891230e-1,
                                2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                2.71155556874348757815e-5, 2.01033439929228813265e-7};
FASTINIT_TABLE double kF64[] = {1.0,
                                5.99832206555887937690e-1,
                                1.36929880922735805310e-1,
                                1.48753612908506148525e-2,
                                7.86869131145613259100e-4,
                                1.84631831751005468180e-5,
                                1.42151175831644588870e-7,
                                2.04426310338993978564e-15};

// log(x Q(x) / phi(x)) = y M(y), y = 1 / x^2: the logarithm of Mills' asymptotic series.
FASTINIT_TABLE double kMills64[] = {-1.0,        2.5,           -37.0 / 3.0,
                                    353.0 / 4.0, -4081.0 / 5.0, 55205.0 / 6.0};

}  // namespace fastinit::coef
